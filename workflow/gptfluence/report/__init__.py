"""One page for a reviewer: what was reported and measured, what follows, every table and figure, costs and origins."""
