"""Words of the command line, which imports nothing else to know them."""

from __future__ import annotations

FORMS = ("huggingface", "released")
"""In what forms dynamics are published."""
