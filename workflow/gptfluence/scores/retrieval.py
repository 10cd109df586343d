"""How well scores find the training examples that are known to matter: fact tracing.

A query is a test example with at least one relevant training example; there is one value a query. Ties are broken
against the method: of equal scores, relevant examples rank last, so that scores without a difference find nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def ranked_relevance(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return, for each query, whether the training example at each rank is relevant.

    Args:
        scores: [train, tests], the higher the more relevant is a training example said to be; no NaN.
        relevant: [train, tests], the truth.

    Returns:
        [train, queries], the highest score first.
    """
    queries = relevant.any(axis=0)
    truth = relevant[:, queries]
    order = np.lexsort((truth, -np.asarray(scores[:, queries], float)), axis=0)
    return np.take_along_axis(truth, order, axis=0)


def reciprocal_ranks(ranked: NDArray[np.bool_]) -> Array:
    """Return one over the rank of the first relevant example; their mean is the mean reciprocal rank.

    Args:
        ranked: [train, queries]; see `ranked_relevance`.

    Returns:
        [queries].
    """
    return 1.0 / (1 + ranked.argmax(axis=0))


def recalls(ranked: NDArray[np.bool_], k: int) -> Array:
    """Return Recall@k: which share of the relevant examples is among the first k.

    A query with more than k relevant examples has less than 1 in any case.

    Args:
        ranked: [train, queries]; see `ranked_relevance`.

    Returns:
        [queries].
    """
    return ranked[:k].sum(axis=0) / ranked.sum(axis=0)
