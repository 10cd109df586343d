"""Where the mixture has the training examples of a single task: the release does not say it, their texts do.

Both carry the same examples, in other words around them, and the mixture those of all tasks one behind the other, in an
order that is not told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Text = tuple[str, str]
"""Prompt and target."""

_DISTINCT = 20  # characters: a shorter line or target may be of several examples
_SHARING = 5  # examples: a line or target of more of them is a template's, or an answer
_AGREEING = 0.9  # of a stretch's examples


class Stretch(NamedTuple):
    """Examples `first` to `last` of a task are the mixture's `to` and those behind it."""

    first: int
    last: int
    to: int


def find_stretches(own: Mapping[int, Text], mixture: Mapping[int, Text]) -> list[Stretch]:
    """Find a task's training examples among the mixture's, by id; in the order of the task's ids.

    The stretch with the most agreeing texts is found first; no two have an example in common on either side.
    """
    shifts = _shifts(own, mixture)
    found: list[Stretch] = []
    left, free = set(own), set(mixture)
    while votes := Counter(shift for example in left for shift in shifts[example]):
        shift = max(votes, key=lambda s: (votes[s], -abs(s)))
        voters = [example for example in left if shift in shifts[example]]
        first, last = min(voters), max(voters)
        # Between the first and the last that agree, a few may be in other words.
        stretch = range(first, last + 1)
        whole = left.issuperset(stretch) and free.issuperset(example + shift for example in stretch)
        if whole and len(voters) >= _AGREEING * len(stretch):
            found.append(Stretch(first, last, first + shift))
            left -= set(stretch)
            free -= {example + shift for example in stretch}
        for example in left:
            shifts[example].discard(shift)
    return sorted(found)


def _shifts(own: Mapping[int, Text], mixture: Mapping[int, Text]) -> dict[int, set[int]]:
    """Return what would have to be added to each id, for each example of the mixture that has the same text in it."""
    lines = {example: [line.strip() for line in prompt.splitlines()] for example, (prompt, _) in own.items()}
    targets = {example: target.strip() for example, (_, target) in own.items()}
    shared = Counter(line for of_example in lines.values() for line in set(of_example))
    equal = Counter(targets.values())
    found = {}
    for example, of_example in lines.items():
        line = max((line for line in of_example if shared[line] <= _SHARING), key=len, default="")
        target = targets[example] if equal[targets[example]] <= _SHARING else ""
        by_line, by_target = len(line) >= _DISTINCT, len(target) >= _DISTINCT
        found[example] = {
            other - example
            for other, (around, answer) in mixture.items()
            if (by_line and line in around) or (by_target and target == answer.strip())
        }
    return found


def place(first: int, count: int, stretches: Iterable[tuple[int, int, int]]) -> int | None:
    """Return the mixture's id of a task's example `first`, if one stretch has `count` of them from there on."""
    found = (to + first - begin for begin, last, to in stretches if begin <= first and first + count - 1 <= last)
    return next(found, None)
