"""The largest inner products of queries with many stored vectors: exact up to a million vectors, by a graph beyond.

The graph is faiss's HNSW (Malkov and Yashunin, arXiv 1603.09320) with 32 neighbours a vector and numbers of 8 bits;
what it finds is ranked by the exact inner products, which are read from the store. It takes a quarter of the store's
bytes in memory, and some tenths of a millisecond for each vector to be built, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptfluence.errors import UserError
from gptfluence.io import atomic_path

if TYPE_CHECKING:
    import faiss

EXACT_UP_TO = 1_000_000
"""Vectors. Exact search of so many takes seconds to minutes on one core; a graph is slower to build, but only once."""

_CHUNK_NUMBERS = 1 << 22  # that are read from the store at once, 16 MiB
_GRAPH = "HNSW32,SQ8"
_BREADTH = 256  # candidates that the graph's search keeps; with less, it misses more where all vectors are far apart
_SPARE = 4  # candidates for each wanted vector: 8 bits do not tell near ones apart
_TRAINED_ON = 1 << 16  # vectors, evenly spaced, which the ranges of the 8 bits are taken from


def search(
    vectors: np.ndarray, queries: np.ndarray, k: int, exact: bool | None = None, index: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each query the vectors of the largest inner products with it, the largest first, equal ones in order.

    The exact search reads the vectors in chunks of 16 MiB: of a memory-mapped array no more is held.

    Args:
        vectors: [n, d], float32, best memory-mapped.
        queries: [m, d].
        k: how many vectors are wanted; if there are fewer, all are returned.
        exact: whether all inner products are computed; None: up to `EXACT_UP_TO` vectors.
        index: file that the graph is kept in, if it is needed: read if it is there, else written.

    Returns:
        ids: [m, k], int64; the vectors' numbers.
        scores: [m, k], float32; their inner products with the query.

    Raises:
        UserError: a vector or query is not finite, or the file of the graph is of other vectors.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"vectors {vectors.shape} and queries {queries.shape} do not match")
    if k < 1:
        raise UserError(f"{k} proponents are asked for; it must be at least 1")
    if not len(vectors):
        raise UserError("there are no vectors to search")
    _check_finite(queries, "query", 0)
    k = min(k, len(vectors))
    if exact is None:
        exact = len(vectors) <= EXACT_UP_TO
    return _search_all(vectors, queries, k) if exact else _search_graph(vectors, queries, k, index)


def _chunks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the vectors in parts, in memory, each with its first one's number."""
    size = max(1, _CHUNK_NUMBERS // vectors.shape[1])
    for first in range(0, len(vectors), size):
        chunk = np.ascontiguousarray(vectors[first : first + size], np.float32)
        _check_finite(chunk, "vector", first)
        yield first, chunk


def _check_finite(rows: np.ndarray, what: str, first: int) -> None:
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise UserError(f"{what} number {first + int(np.argmin(finite))} (from 0) is not finite, so it has no rank")


def _search_all(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for first, chunk in _chunks(vectors):
        numbers = np.broadcast_to(np.arange(first, first + len(chunk)), (len(queries), len(chunk)))
        ids, scores = _best(np.hstack([ids, numbers]), np.hstack([scores, queries @ chunk.T]), k)
    return ids, scores


def _best(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest scores of each row and their ids; of equal ones those that stand first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def _search_graph(vectors: np.ndarray, queries: np.ndarray, k: int, path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    wanted = min(_SPARE * k, len(vectors))
    with _one_thread():
        graph = _graph(vectors, path)
        graph.hnsw.efSearch = max(_BREADTH, wanted)
        _, candidates = graph.search(queries, wanted)
    candidates.sort(axis=1)
    found = (candidates >= 0).sum(1) >= k  # a graph may fall apart: then it gives fewer than are wanted, and -1
    ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for row in np.flatnonzero(found):
        own = candidates[row][candidates[row] >= 0]
        (ids[row],), (scores[row],) = _best(own[None], (vectors[own] @ queries[row])[None], k)
    if not found.all():
        ids[~found], scores[~found] = _search_all(vectors, queries[~found], k)
    return ids, scores


def _graph(vectors: np.ndarray, path: Path | None) -> faiss.IndexHNSW:
    """Return the graph of the vectors, from the file if it is there. Neither time nor threads leave traces in it."""
    import faiss

    if path is not None and path.exists():
        try:
            graph = faiss.read_index(str(path))
        except RuntimeError:
            raise UserError(f"{path}: damaged. Delete it and run the same command again.") from None
        if (graph.ntotal, graph.d) != vectors.shape:
            raise UserError(
                f"{path}: is of {graph.ntotal} vectors of {graph.d} numbers, not of {vectors.shape[0]} of "
                f"{vectors.shape[1]}. Delete it and run the same command again."
            )
        return graph
    graph = faiss.index_factory(vectors.shape[1], _GRAPH, faiss.METRIC_INNER_PRODUCT)
    graph.train(np.ascontiguousarray(vectors[:: -(-len(vectors) // _TRAINED_ON)], np.float32))
    for _, chunk in _chunks(vectors):
        graph.add(chunk)
    if path is not None:
        with atomic_path(path) as part:
            faiss.write_index(graph, str(part))
    return graph


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads would enter vectors into the graph in no fixed order."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
