"""Which choices of training data a plan has: by whom, for which tests, and what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptfluence.randomness import named_generator

RANDOM = "random"
"""Method of choices that know nothing."""

BEST_RANDOM = "best_random"
"""Method that takes that one of them after which the measured loss of the target half is the lowest."""

ANY_ORDER = "_any_order"
"""Ending of the method that trains on a simulator's examples in a random order."""


@dataclass(frozen=True)
class Choice:
    """One curriculum that somebody chose.

    Attributes:
        name: of the choice, one of its kind in a group.
        method: who chose.
        split: how the group's tests are halved, from 1; 0: no test was looked at.
        half: which half it was chosen for, 0 or 1; the other one judges it.
    """

    name: str
    method: str
    split: int
    half: int


def list_choices(simulators: Sequence[str], scores: Sequence[str], splits: int, random: int) -> list[Choice]:
    """Return every choice of a group.

    Args:
        simulators: methods that choose examples and order; what they choose is trained on in random order, too.
        scores: methods of attribution that choose examples.
        splits: ways of halving the tests; each half has its turn.
        random: how many random choices.
    """
    methods = [name for method in simulators for name in (method, method + ANY_ORDER)] + list(scores)
    choices = [
        Choice(f"{method}-{split}{'ab'[half]}", method, split, half)
        for split in range(1, splits + 1)
        for half in (0, 1)
        for method in methods
    ]
    return choices + [Choice(f"{RANDOM}-{number}", RANDOM, 0, 0) for number in range(1, random + 1)]


def halve(group: str, split: int, tests: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the tests of either half, in their order; the second has one more if their count is odd."""
    order = named_generator("choices", group, "halves", split).permutation(tests)
    return np.sort(order[: tests // 2]), np.sort(order[tests // 2 :])
