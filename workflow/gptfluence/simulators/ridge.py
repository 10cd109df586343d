"""Ridge regression from sums over rows, of which parts can be taken away again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array

ROUNDING = 1e-11
"""Relative; differences below it are none."""
_EPSILON = float(np.finfo(float).eps)


class Moments(NamedTuple):
    """Sums over rows of what least squares needs.

    Attributes:
        gram: X'X, [columns, columns].
        right: X'y, [columns].
        square: y'y.
        rows: how many.
    """

    gram: Array
    right: Array
    square: float
    rows: float

    @classmethod
    def none(cls, columns: int) -> Moments:
        return cls(np.zeros((columns, columns)), np.zeros(columns), 0.0, 0.0)

    @classmethod
    def of(cls, x: Array, y: Array) -> Moments:
        """Sum over a run; x: [steps, tests, columns], y: [steps, tests]."""
        rows = x.reshape(-1, x.shape[-1])
        return cls(rows.T @ rows, rows.T @ y.ravel(), float(np.vdot(y, y)), float(y.size))

    def plus(self, other: Moments) -> Moments:
        """Add another's sums."""
        return Moments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def without(self, other: Moments, times: float) -> Moments:
        """Take away another's sums, some times, and its rows, once; what then is rounding is zero."""
        gram, square = self.gram - times * other.gram, self.square - times * other.square
        kept = np.diag(gram) > ROUNDING * np.diag(self.gram)
        return Moments(
            np.where(np.outer(kept, kept), gram, 0.0),
            np.where(kept, self.right - times * other.right, 0.0),
            square if square > ROUNDING * self.square else 0.0,
            self.rows - other.rows,
        )


def ridge_path(sums: Moments, strengths: list[float]) -> Array:
    """Return the ridge solution of each strength, [strengths, columns], from one decomposition.

    Args:
        sums: over the rows.
        strengths: for columns and y scaled to mean square 1; a column of zeros gets no weight. One below the rounding
            error of the Gram matrix, whose trace is the number of columns, counts as that error.
    """
    rows = max(sums.rows, 1.0)
    gram, scale, used = _standardised(sums)
    height = np.sqrt(sums.square / rows) or 1.0
    values, vectors = np.linalg.eigh(gram)
    rotated = vectors.T @ (np.where(used, sums.right, 0.0) / scale / height / rows)
    solved = rotated / (np.maximum(values, 0.0) + np.maximum(strengths, len(gram) * _EPSILON)[:, None])
    return solved @ vectors.T * height / scale


def _standardised(sums: Moments) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return X'X / n of columns of mean square 1, their scales, and which of them say anything."""
    rows, diagonal = max(sums.rows, 1.0), np.diag(sums.gram)
    used = diagonal > 0
    scale = np.sqrt(np.where(used, diagonal, rows) / rows)
    return np.where(np.outer(used, used), sums.gram, 0.0) / np.outer(scale, scale) / rows, scale, used


def leverage_metric(sums: Moments, strength: float) -> Array:
    """Return (X'X / n + ridge)^-1, [columns, columns]."""
    gram, scale, _ = _standardised(sums)
    return np.linalg.inv(gram + max(strength, len(gram) * _EPSILON) * np.eye(len(gram))) / np.outer(scale, scale)


def mean_leverage(x: Array, metric: Array) -> float:
    """Return the root of the mean leverage of rows; x: [steps, tests, columns]."""
    return float(np.sqrt(max(np.einsum("tzi,ij,tzj->tz", x, metric, x, optimize=True).mean(), 0.0)))
