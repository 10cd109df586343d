"""Tasks of two labels with some of them wrong, to be found and corrected (paper, section 4.6).

A pool of P examples stands in the task twice, 0 .. P - 1 with noisy and P .. 2 P - 1 with true labels, so that a label
is corrected by training on number i + P in place of i. Each test example stands there with both labels, 2 k with the
true one and 2 k + 1 with the other: which of the two has the lower loss is the GPT's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptfluence.errors import UserError
from gptfluence.randomness import named_generator
from gptfluence.tasks.render import RowError, canonical_row

# The column of each task's label, and its two values.
_LABELS: dict[str, tuple[str, tuple[Any, Any]]] = {
    "rte": ("label", ("entailment", "not_entailment")),
    "sst2": ("label", (0, 1)),
    "boolq": ("answer", (False, True)),
}

Row = dict[str, Any]


def mislabel(task: str, parts: dict[str, list[Row]], flipped: float, seed: int) -> dict[str, list[Row]]:
    """Return the rows of the mislabelled task.

    Args:
        task: the built-in task whose rows these are.
        parts: its rows by part, in the form of the hub or of ours; no unseen pool.
        flipped: the share of the pool whose labels are flipped; exactly this share, rounded.
        seed: of which these are.

    Returns:
        Twice as many rows: the pool with noisy, then with true labels; each test row, then itself with the other label.

    Raises:
        UserError: the task does not have two labels, or a row is wrong.
    """
    if task not in _LABELS:
        raise UserError(
            f"params.yaml: mislabelled.task: '{task}' has no labels to flip; take one of {', '.join(_LABELS)}"
        )
    assert not parts["unseen_pool"]
    pool, test = (_canonical(task, part, parts[part]) for part in ("pool", "test"))
    chosen = flipped_examples(task, len(pool), flipped, seed)
    noisy = [_other_label(task, row) if i in chosen else row for i, row in enumerate(pool)]
    return {
        "pool": noisy + pool,
        "unseen_pool": [],
        "test": [r for row in test for r in (row, _other_label(task, row))],
    }


def flipped_examples(task: str, pool: int, flipped: float, seed: int) -> set[int]:
    """Return which examples of a pool have the wrong label."""
    generator = named_generator("mislabel", seed, task, pool)
    return set(generator.choice(pool, size=round(flipped * pool), replace=False).tolist())


def original_example(part: str, example: int, pool: int) -> int:
    """Return the number in the original task of an example of the mislabelled one; `pool`: P."""
    return example // 2 if part == "test" else example % pool


def _canonical(task: str, part: str, rows: Sequence[Row]) -> list[Row]:
    found = []
    for example, row in enumerate(rows):
        try:
            found.append(canonical_row(task, row) | {"facts": row.get("facts", ())})
        except RowError as error:
            raise UserError(f"task '{task}', {part} example {example}: {error}") from None
    return found


def _other_label(task: str, row: Row) -> Row:
    column, (first, second) = _LABELS[task]
    return row | {column: second if row[column] == first else first}
