"""Search: exact against a plain sort, the graph's recall against the exact search, memory, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gptfluence.attribution import search as module
from gptfluence.attribution.search import search
from gptfluence.errors import UserError


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Vectors as gradients are: near each other where texts are alike. 4000 vectors and 50 queries of 64 numbers."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(100, 64))

    def around(count: int) -> np.ndarray:
        return unit(centres[generator.integers(100, size=count)] + generator.normal(size=(count, 64)))

    return around(4000), around(50)


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)]))


def test_exact_search_equals_a_plain_sort(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, queries = clusters
    ids, scores = search(vectors, queries, 7)
    products = queries @ vectors.T
    np.testing.assert_array_equal(ids, np.argsort(-products, 1, kind="stable")[:, :7])
    np.testing.assert_allclose(scores, -np.sort(-products, 1)[:, :7], rtol=1e-6)
    assert (ids.dtype, scores.dtype) == (np.int64, np.float32)


def test_chunks_leave_no_trace(clusters: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = clusters
    whole = search(vectors, queries, 5)
    monkeypatch.setattr(module, "_CHUNK_NUMBERS", 64 * 333)
    parts = search(vectors, queries, 5)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-6)


def test_equal_scores_keep_the_order_of_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_NUMBERS", 2 * 3)
    vectors = np.ones((11, 3), np.float32)
    vectors[5] = 2
    ids, _ = search(vectors, np.ones((1, 3), np.float32), 4)
    assert ids.tolist() == [[5, 0, 1, 2]]


def test_fewer_vectors_than_wanted_are_all_returned() -> None:
    vectors = np.eye(3, dtype=np.float32)
    for exact in (True, False):
        ids, scores = search(vectors, np.array([[1, 3, 2]], np.float32), 10, exact)
        assert ids.tolist() == [[1, 2, 0]]
        assert scores.tolist() == [[3, 2, 1]]


def test_exact_search_holds_no_more_than_a_chunk(tmp_path: Path) -> None:
    """Anonymous memory of a process that searches 400 MB on disk; pages of the map itself can be dropped."""
    file = tmp_path / "vectors"
    np.lib.format.open_memmap(file, "w+", np.float32, (100_000, 1024)).flush()
    code = (
        "import sys, threading, time, numpy as np\n"
        "from gptfluence.attribution.search import search\n"
        "def anonymous():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])\n"
        "vectors = np.load(sys.argv[1], mmap_mode='r')\n"
        "search(vectors[:10], np.ones((2, 1024), np.float32), 5)\n"
        "before, most, done = anonymous(), [0], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(0.005): most.append(anonymous())\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        "search(vectors, np.ones((2, 1024), np.float32), 5)\n"
        "done.set(); thread.join()\n"
        "print(max(most) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 80_000  # kB


def test_the_graph_finds_nearly_all(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, queries = clusters
    true, _ = search(vectors, queries, 10)
    ids, scores = search(vectors, queries, 10, exact=False)
    assert recall(ids, true) > 0.98
    # What it finds is scored and ranked exactly.
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, ids, 1), rtol=1e-5)
    assert (np.diff(scores) <= 0).all()


def test_the_graph_finds_most_where_vectors_are_of_all_lengths(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, queries = clusters
    stretched = vectors * np.exp(np.random.default_rng(1).normal(size=(len(vectors), 1))).astype(np.float32)
    ids, _ = search(stretched, queries, 10, exact=False)
    assert recall(ids, search(stretched, queries, 10)[0]) > 0.95


def test_the_graph_is_chosen_above_its_threshold(
    clusters: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vectors, queries = clusters
    search(vectors, queries, 3, index=tmp_path / "graph")
    assert not (tmp_path / "graph").exists()
    monkeypatch.setattr(module, "EXACT_UP_TO", 3999)
    search(vectors, queries, 3, index=tmp_path / "graph")
    assert (tmp_path / "graph").exists()


def test_the_graph_is_built_the_same_each_time_and_kept(
    clusters: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    vectors, queries = clusters
    files = [tmp_path / name for name in ("one", "other")]
    first, second = (search(vectors, queries, 10, exact=False, index=file) for file in files)
    assert files[0].read_bytes() == files[1].read_bytes()
    again = search(vectors, queries, 10, exact=False, index=files[0])
    for results in (second, again):
        np.testing.assert_array_equal(first[0], results[0])
        np.testing.assert_array_equal(first[1], results[1])
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_a_graph_of_other_vectors_or_a_damaged_one_is_refused(
    clusters: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    vectors, queries = clusters
    file = tmp_path / "graph"
    search(vectors[:100], queries, 10, exact=False, index=file)
    with pytest.raises(UserError, match=r"graph: is of 100 vectors of 64 numbers, not of 4000 of 64\. Delete it"):
        search(vectors, queries, 10, exact=False, index=file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"graph: damaged\. Delete it"):
        search(vectors[:100], queries, 10, exact=False, index=file)


def test_what_cannot_be_ranked_is_named(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, queries = clusters[0].copy(), clusters[1].copy()
    vectors[3210, 5] = np.nan
    for exact in (True, False):
        with pytest.raises(UserError, match=r"vector number 3210 \(from 0\) is not finite"):
            search(vectors, queries, 3, exact)
    queries[4, 0] = np.inf
    with pytest.raises(UserError, match=r"query number 4 \(from 0\) is not finite"):
        search(vectors, queries, 3)
    with pytest.raises(UserError, match="0 proponents are asked for"):
        search(clusters[0], clusters[1], 0)
