"""Names of choices, and how tests are halved."""

from __future__ import annotations

import numpy as np
import pytest
from gptfluence.choices.named import Choice, halve, list_choices


def test_every_method_chooses_for_each_half_of_each_split() -> None:
    choices = list_choices(("sim",), ("bm25", "less"), 2, 3)
    assert len({choice.name for choice in choices}) == len(choices) == 2 * 2 * (2 + 2) + 3
    assert choices[0] == Choice("sim-chosen-1a", "sim", "chosen", 1, 0)
    assert choices[-1] == Choice("random-3", "random", "random", 0, 0)
    of_second = [(c.method, c.order) for c in choices if (c.split, c.half) == (2, 1)]
    assert of_second == [("sim", "chosen"), ("sim", "random"), ("bm25", "random"), ("less", "random")]


@pytest.mark.parametrize("tests", [2, 7, 16])
def test_halves_share_no_test_and_miss_none(tests: int) -> None:
    first, second = halve("group", 1, np.zeros(tests, np.int64))
    assert (len(first), len(second)) == (tests - tests // 2, tests // 2)
    assert sorted([*first, *second]) == list(range(tests))
    assert (np.diff(first) > 0).all() and (np.diff(second) > 0).all()


def test_splits_and_groups_are_halved_differently() -> None:
    halves = {
        tuple(halve(group, split, np.zeros(16, np.int64))[0]) for group in ("one", "other") for split in (1, 2, 3)
    }
    assert len(halves) == 6
    assert tuple(halve("one", 1, np.zeros(16, np.int64))[0]) in halves


def test_halves_have_their_share_of_each_stratum() -> None:
    strata = np.array([0, 1, 2, 0, 1, 1, 0, 1, 0, 0, 2])
    for split in range(1, 9):
        first, second = (np.bincount(strata[half], minlength=3) for half in halve("group", split, strata))
        assert (first + second).tolist() == [5, 4, 2]
        assert np.abs(first - second).max() <= 1 and first[1] == second[1]
