"""Attribution without gradients: by texts, by their length, by chance. What a gradient method has to beat."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from gptfluence.randomness import named_generator

Scores = NDArray[np.float32]
"""[train, tests]; the higher, the more a training example is said to help a test."""


_WORD = r"(?u)\b\w+\b"  # also of one letter: digits are


class Bm25:
    """Words in common, by BM25 (k1 = 1.5, b = 0.75, Lucene's weights); all words count, also the commonest.

    Args:
        passages: texts that are searched.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        words = _words(passages)
        self._nothing = np.zeros(len(words), np.float32)
        self._index = None
        if any(words):
            self._index = _library().BM25()
            self._index.index(words, show_progress=False)

    def scores(self, query: str) -> Scores:
        """Return the score of each passage for one text, [passages]; 0 where they have no word in common."""
        (words,) = _words([query])
        return self._index.get_scores(words) if self._index and words else self._nothing


def _words(texts: Sequence[str]) -> list[list[str]]:
    return _library().tokenize(list(texts), token_pattern=_WORD, stopwords=[], return_ids=False, show_progress=False)


def _library() -> ModuleType:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets a level at which it tells all
    return bm25s


def bm25(train: Sequence[str], tests: Sequence[str]) -> Scores:
    """Score training texts by the words that they share with each test's text."""
    index = Bm25(train)
    return np.stack([index.scores(text) for text in tests], axis=1).astype(np.float32)


def for_all_tests(values: NDArray[np.floating], tests: int) -> Scores:
    """Return what is said of each training example, [train], as the same for every test."""
    return np.repeat(np.asarray(values, np.float32)[:, None], tests, axis=1)


def random_scores(train: int, tests: int, seed: int) -> Scores:
    """Return random numbers."""
    return named_generator("attribution", "random", seed).standard_normal((train, tests), dtype=np.float32)
