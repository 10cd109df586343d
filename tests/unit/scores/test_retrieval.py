"""Retrieval against plain loops and hand-made rankings."""

import numpy as np
import pytest
from gptfluence.scores.retrieval import ranked_relevance, recalls, reciprocal_ranks


def naive(scores, relevant, k):
    """Rank each query's examples one by one, relevant ones behind others of the same score."""
    reciprocal, recall = [], []
    for z in np.flatnonzero(relevant.any(axis=0)):
        order = sorted(range(len(scores)), key=lambda i, z=z: (-scores[i, z], relevant[i, z]))
        ranks = [place + 1 for place, i in enumerate(order) if relevant[i, z]]
        reciprocal.append(1 / ranks[0])
        recall.append(sum(rank <= k for rank in ranks) / len(ranks))
    return reciprocal, recall


@pytest.mark.parametrize("values", [3, 1000])  # with many ties and with few
@pytest.mark.parametrize("k", [1, 4, 50])
def test_equals_a_plain_loop(values, k):
    rng = np.random.default_rng(values)
    scores = rng.integers(0, values, (30, 40)).astype(np.float32)
    relevant = rng.random((30, 40)) < 0.05
    ranked = ranked_relevance(scores, relevant)
    reciprocal, recall = naive(scores, relevant, k)
    assert 0 < len(recall) < 40  # some tests are no query
    np.testing.assert_allclose(reciprocal_ranks(ranked), reciprocal)
    np.testing.assert_allclose(recalls(ranked, k), recall)


def test_by_hand():
    scores = np.array([[0.1, 5.0], [0.9, 5.0], [0.5, 1.0], [0.3, 0.0]])
    relevant = np.array([[False, False], [False, False], [True, False], [True, False]])
    ranked = ranked_relevance(scores, relevant)
    assert ranked.tolist() == [[False], [True], [True], [False]]
    assert reciprocal_ranks(ranked).tolist() == [0.5]
    assert [recalls(ranked, k).item() for k in (1, 2, 3)] == [0, 0.5, 1]


def test_a_perfect_method_and_one_that_makes_no_difference():
    relevant = np.random.default_rng(0).random((20, 15)) < 0.2
    relevant[0] = True
    perfect = ranked_relevance(relevant.astype(float), relevant)
    assert (reciprocal_ranks(perfect) == 1).all() and (recalls(perfect, 20) == 1).all()
    nothing = ranked_relevance(np.zeros(relevant.shape), relevant)
    others = (~relevant).sum(axis=0)
    np.testing.assert_allclose(reciprocal_ranks(nothing), 1 / (others + 1))


def test_only_the_order_of_scores_counts():
    rng = np.random.default_rng(1)
    scores, relevant = rng.normal(size=(12, 9)), rng.random((12, 9)) < 0.3
    same = ranked_relevance(np.exp(3 * scores), relevant)
    np.testing.assert_array_equal(same, ranked_relevance(scores, relevant))
    shuffled = rng.permutation(12)
    np.testing.assert_array_equal(same, ranked_relevance(scores[shuffled], relevant[shuffled]))


def test_without_queries_there_are_no_values():
    ranked = ranked_relevance(np.ones((4, 3)), np.zeros((4, 3), bool))
    assert reciprocal_ranks(ranked).shape == recalls(ranked, 2).shape == (0,)
