"""Files of attribution scores, straight from arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gptfluence.attribution.table_file import ScoreTables, write_table_file


def write_scores(
    path: Path, train_tasks: list[str], test_tasks: list[str], scores: dict[str, np.ndarray], tokens: np.ndarray
) -> str:
    """Write scores {method: [train, tests]} of training examples that are spread evenly over the tasks."""
    train = [(task, example) for task in train_tasks for example in range(len(tokens) // len(train_tasks))]
    write_table_file(path, train, ScoreTables(tokens, scores), {"test_tasks": test_tasks})
    return str(path)
