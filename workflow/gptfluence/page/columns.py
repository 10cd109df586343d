"""Which columns of a group's gradient kernels the page holds: those of some tests, and what stands for the others.

How much of a prediction is believed, and how far a curriculum is from the fitted ones, are sums of squares over all of
a task's tests (see `gradient_response`). They are the same for any rotation of the tests, so those that are not shown
are kept as few columns, along the directions in which their kernels are largest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array

LOST = 1e-7
"""Share of the squares of the tests that are not shown, of each kernel, that their columns may lack."""


class Columns(NamedTuple):
    """Columns of one task.

    Attributes:
        values: [kernels, checkpoints, train, columns]: first those of the shown tests.
        shown: numbers of the shown tests within the task.
    """

    values: Array
    shown: NDArray[np.int64]


def choose_columns(kernels: Array, most: int) -> Columns:
    """Return a task's columns.

    Args:
        kernels: [kernels, checkpoints, train, tests].
        most: how many tests are shown; they are spread evenly over all.
    """
    tests = kernels.shape[3]
    shown = np.unique(np.linspace(0, tests - 1, min(most, tests)).round().astype(int))
    rest = np.delete(kernels, shown, axis=3)
    if not rest.shape[3]:
        return Columns(kernels[..., shown], shown)
    # Each kernel counts alike, whatever its unit.
    grams = [np.einsum("cia,cib->ab", kernel, kernel, optimize=True) for kernel in rest]
    gram = sum(gram / (np.trace(gram) or 1.0) for gram in grams)
    _, directions = np.linalg.eigh(gram)
    directions = directions[:, ::-1]  # the largest first
    left = np.array([_left(gram, directions) for gram in grams]).max(axis=0)
    kept = int(np.argmax(left <= LOST)) + 1 if (left <= LOST).any() else len(left)
    return Columns(np.concatenate([kernels[..., shown], rest @ directions[:, :kept]], axis=3), shown)


def _left(gram: Array, directions: Array) -> Array:
    """Return the share of a Gram matrix' trace that the first directions, up to each of them, lack."""
    trace = np.trace(gram)
    return (trace - np.cumsum(np.einsum("ad,ab,bd->d", directions, gram, directions))) / (trace or 1.0)
