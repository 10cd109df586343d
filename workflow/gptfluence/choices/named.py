"""Which choices of training data a plan has: by whom, for which tests, and what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptfluence.randomness import named_generator
from gptfluence.words import CHOSEN, RANDOM


@dataclass(frozen=True)
class Choice:
    """One curriculum that somebody chose.

    Attributes:
        name: of the choice, one of its kind in a group.
        method: who chose the examples; RANDOM: nobody.
        order: CHOSEN by the same method, or RANDOM.
        split: how the group's tests are halved, from 1; 0: no test was looked at.
        half: which half it was chosen for, 0 or 1; the other one judges it.
    """

    name: str
    method: str
    order: str
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
    methods = [(method, order) for method in simulators for order in (CHOSEN, RANDOM)]
    methods += [(method, RANDOM) for method in scores]
    choices = [
        Choice(f"{method}-{order}-{split}{'ab'[half]}", method, order, split, half)
        for split in range(1, splits + 1)
        for half in (0, 1)
        for method, order in methods
    ]
    return choices + [Choice(f"{RANDOM}-{number}", RANDOM, RANDOM, 0, 0) for number in range(1, random + 1)]


def halve(group: str, split: int, strata: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the tests of either half, in their order: of each stratum as many, or one more in one half.

    Args:
        group: of the tests.
        split: which way of halving.
        strata: [tests], number of each test's stratum.
    """
    order = named_generator("choices", group, "halves", split).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    return np.sort(order[::2]), np.sort(order[1::2])
