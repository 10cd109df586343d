"""Vectors, a row each: of unit length, and their cosines. Torch is not imported here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_length(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Divide each row by its length; one of zeros stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros(rows.shape, np.float32), where=norms > 0)


def cosines(train: NDArray[np.floating], tests: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the cosines of [train, width] and [tests, width], [train, tests]; 0 where one is all zeros."""
    return unit_length(train) @ unit_length(tests).T
