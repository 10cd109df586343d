from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gptfluence.attribution.texts import Bm25, bm25, for_all_tests, random_scores

PASSAGES = ["The old mayor bakes 7 loaves.", "A mayor of a town", "Boats. Boats, and Boats!", "7 plus 8 is x", "Köln"]
QUERIES = ["the MAYOR of Köln", "what is 7 plus x", "boats boats", "nothing in common"]


def formula(passages: list[str], query: str) -> list[float]:
    """Lucene's BM25 with k1 = 1.5 and b = 0.75."""
    split = [re.findall(r"\w+", passage.lower()) for passage in passages]
    mean = np.mean([len(words) for words in split])
    scores = []
    for words in split:
        score = 0.0
        for word in re.findall(r"\w+", query.lower()):
            holding = sum(word in other for other in split)
            count = Counter(words)[word]
            idf = np.log(1 + (len(passages) - holding + 0.5) / (holding + 0.5))
            score += idf * count / (count + 1.5 * (0.25 + 0.75 * len(words) / mean))
        scores.append(score)
    return scores


def test_bm25_equals_its_formula() -> None:
    scores = bm25(PASSAGES, QUERIES)
    assert scores.shape == (5, 4) and scores.dtype == np.float32
    expected = np.array([formula(PASSAGES, query) for query in QUERIES]).T
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert (scores[:, 3] == 0).all() and (scores[:, :3] > 0).any(0).all()


def test_words_of_one_letter_count() -> None:
    """Where a task is arithmetic, they are all there is."""
    scores = bm25(["3 + 4 = 7", "2 + 2 = 4"], ["3"])
    assert scores[0, 0] > 0 == scores[1, 0]


def test_texts_without_words() -> None:
    assert (bm25(PASSAGES, ["", "?!"]) == 0).all()
    np.testing.assert_array_equal(bm25(["", "..."], QUERIES), np.zeros((2, 4)))
    scores = bm25(["", "a town"], ["town"])
    assert scores[0, 0] == 0 < scores[1, 0]


def test_one_query_scores_as_among_others() -> None:
    index = Bm25(PASSAGES)
    np.testing.assert_array_equal(index.scores(QUERIES[1]), bm25(PASSAGES, QUERIES)[:, 1])


def test_bm25_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        bm25(PASSAGES, QUERIES)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_bm25_does_not_depend_on_the_hashes_of_words() -> None:
    """Python's differ from one process to the next."""
    code = f"from gptfluence.attribution.texts import bm25\nprint(bm25({PASSAGES!r} * 3, {QUERIES!r}).tobytes().hex())"
    folder = Path(__file__).parents[3] / "workflow"

    def scores(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(folder)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert scores("1") == scores("2") != ""


def test_what_is_the_same_for_all_tests() -> None:
    scores = for_all_tests(np.array([3, 1, 2]), 4)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [[3] * 4, [1] * 4, [2] * 4])


def test_random_scores_depend_on_the_seed_alone() -> None:
    first = random_scores(200, 30, 1)
    assert first.shape == (200, 30) and first.dtype == np.float32
    np.testing.assert_array_equal(first, random_scores(200, 30, 1))
    assert abs(np.corrcoef(first.ravel(), random_scores(200, 30, 2).ravel())[0, 1]) < 0.05
    # Of all tests one has another order than the next.
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < 0.3
