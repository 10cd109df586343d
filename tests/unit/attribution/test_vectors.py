from __future__ import annotations

import numpy as np
from gptfluence.attribution.vectors import cosines, unit_length


def test_cosines() -> None:
    train = np.array([[1, 0], [0, 2], [3, 3], [0, 0]], np.float32)
    tests = np.array([[5, 0], [-1, -1]], np.float32)
    root = 0.5**0.5
    expected = [[1, -root], [0, -root], [root, -1], [0, 0]]
    np.testing.assert_allclose(cosines(train, tests), expected, atol=1e-7)


def test_a_row_of_zeros_stays() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_length(rows), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
