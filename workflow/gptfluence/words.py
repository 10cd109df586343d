"""Words in the columns of simulations and scores that several modules look for."""

from __future__ import annotations

AVERAGE = "average"
"""Name, in the column of tasks, of the unweighted mean over tasks."""

MEASURED = "measured"
"""What the truth is called in the column of methods."""
