"""What a store holds after any end of the job that fills it, and which stores are refused."""

from __future__ import annotations

import itertools
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gptfluence.attribution.store import GradientStore
from gptfluence.errors import UserError

HEADER = {"model": "0123456789ab", "projection": 16, "settings": {"parameters": "linear"}}
ROWS, WIDTH = 40, 6


def numbers(rows: int = ROWS, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, width), np.float32)


def open_store(folder: Path, header: dict[str, Any] = HEADER, rows: int = ROWS, width: int = WIDTH) -> GradientStore:
    return GradientStore.open_or_resume(folder, header, rows, width)


def content(folder: Path) -> dict[str, bytes]:
    """Everything but what a killed writer may leave behind."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_rows_come_back_in_order_whatever_the_parts_and_reopenings(tmp_path: Path) -> None:
    expected = numbers()
    cuts = [0, 1, 1, 8, 33, ROWS]
    for start, stop in itertools.pairwise(cuts):
        store = open_store(tmp_path / "store")
        assert store.todo() == start
        store.append(expected[start:stop].astype(np.float64))
        np.testing.assert_array_equal(store.array, expected[:stop])
    store = open_store(tmp_path / "store")
    assert store.todo() == ROWS == store.rows and store.array.dtype == np.float32
    np.testing.assert_array_equal(store.array, expected)
    open_store(tmp_path / "at_once").append(expected)
    assert content(tmp_path / "store") == content(tmp_path / "at_once")


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a/b")
    assert store.todo() == 0 and store.array.shape == (0, WIDTH)
    assert open_store(tmp_path / "a/b").todo() == 0


def test_what_is_read_cannot_be_changed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.append(numbers())
    with pytest.raises(ValueError, match="read-only"):
        store.array[0, 0] = 1.0


def test_rows_that_do_not_count_are_written_over(tmp_path: Path) -> None:
    """As after a stop between the rows and the note of how many there are; the last one stands half."""
    expected = numbers()
    open_store(tmp_path).append(expected[:10])
    with open(tmp_path / "rows.f32", "ab") as file:
        file.write(b"\xff" * (4 * WIDTH * 7 + 5))
    store = open_store(tmp_path)
    assert store.todo() == 10
    np.testing.assert_array_equal(store.array, expected[:10])
    store.append(expected[10:])
    assert (tmp_path / "rows.f32").read_bytes() == expected.tobytes()


def test_two_jobs_that_fill_one_store_do_no_harm(tmp_path: Path) -> None:
    expected = numbers()
    one, two = open_store(tmp_path), open_store(tmp_path)
    one.append(expected[:20])
    two.append(expected[:10])
    three = open_store(tmp_path)
    one.append(expected[20:])
    two.append(expected[10:30])
    three.append(expected[10:])
    np.testing.assert_array_equal(open_store(tmp_path).array, expected)


FILL = """
import sys
from pathlib import Path
import numpy as np
from gptfluence.attribution.store import GradientStore
folder, rows, width, part = Path(sys.argv[1]), *map(int, sys.argv[2:])
values = np.random.default_rng(1).standard_normal((rows, width), np.float32)
store = GradientStore.open_or_resume(folder, {"model": "m"}, rows, width)
print(store.todo(), flush=True)
for start in range(store.todo(), rows, part):
    store.append(values[start : start + part])
"""


def test_a_store_killed_at_any_moment_ends_in_the_same_bytes(tmp_path: Path) -> None:
    rows, width, part = 3000, 64, 15

    def command(name: str) -> list[str]:
        return [sys.executable, "-c", FILL, str(tmp_path / name), str(rows), str(width), str(part)]

    generator, firsts = random.Random(5), []
    for _ in range(4):
        process = subprocess.Popen(command("killed"), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        firsts.append(int(process.stdout.readline()))
        time.sleep(generator.uniform(0.01, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = GradientStore.open_or_resume(tmp_path / "killed", {"model": "m"}, rows, width)
        np.testing.assert_array_equal(store.array, numbers(rows, width)[: store.todo()])
    assert len(set(firsts)) > 1, "no job found anything of the one before it"
    subprocess.run(command("killed"), check=True, capture_output=True)
    open_store(tmp_path / "whole", {"model": "m"}, rows, width).append(numbers(rows, width))
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "ba9876543210"}, r'store: .*\(model: "0123456789ab" there, "ba9876543210" here\)'),
        ({"projection": 8}, r"\(projection: 16 there, 8 here\)"),
        ({"settings": {"parameters": "all"}}, r'\(settings: \{"parameters":"linear"\} there, \{"parameters":"all"\}'),
        ({"corpus": "x" * 80}, r'\(corpus: nothing there, "x{59}\.\.\. here\)'),
        ({"model": "b", "projection": 8}, r"\(model: .*; projection: .*\)"),
    ],
)
def test_a_store_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    open_store(tmp_path / "store").append(numbers())
    before = content(tmp_path / "store")
    with pytest.raises(UserError, match=message):
        open_store(tmp_path / "store", HEADER | changes)
    assert content(tmp_path / "store") == before


def test_a_store_of_more_than_is_wanted_or_of_another_size_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path)
    with pytest.raises(UserError, match=r"\(projection: 16 there, nothing here\)"):
        open_store(tmp_path, {key: value for key, value in HEADER.items() if key != "projection"})
    with pytest.raises(UserError, match=r"\(rows: 40 there, 41 here\)"):
        open_store(tmp_path, rows=ROWS + 1)
    with pytest.raises(UserError, match=r"\(width: 6 there, 5 here\)"):
        open_store(tmp_path, width=WIDTH - 1)


def test_equal_headers_of_other_types_are_the_same(tmp_path: Path) -> None:
    """Tuples become lists in JSON."""
    open_store(tmp_path, {"blocks": ("a", "b")})
    assert open_store(tmp_path, {"blocks": ["a", "b"]}).todo() == 0


def test_a_damaged_store_and_a_folder_of_others_are_named(tmp_path: Path) -> None:
    store = tmp_path / "store"
    open_store(store).append(numbers())
    (store / "rows.f32").write_bytes(numbers()[:-1].tobytes())
    with pytest.raises(
        UserError, match=r"rows\.f32: damaged: 40 rows were written, not all are there\. Delete .*store"
    ):
        open_store(store)
    (store / "header.json").write_text("{")
    with pytest.raises(UserError, match=r"header\.json: not readable .* Delete .*store"):
        open_store(store)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="other: holds files, but no gradients of ours"):
        open_store(other)
    assert {path.name for path in other.iterdir()} == {"thesis.tex"}


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for rows in (numbers(ROWS + 1), numbers(2, WIDTH + 1), numbers()[0]):
        with pytest.raises(ValueError, match="rows"):
            store.append(rows)
    assert store.todo() == 0


def test_a_full_disk_is_an_error_that_leaves_what_was_written(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    store = open_store(tmp_path / "store")
    store.append(numbers()[:10])
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * WIDTH * 20, limits[1]))
    try:
        with pytest.raises(UserError, match=r"rows\.f32: cannot be written: .*still counts"):
            store.append(numbers()[10:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.todo() == 10
    resumed = open_store(tmp_path / "store")
    resumed.append(numbers()[resumed.todo() :])
    np.testing.assert_array_equal(resumed.array, numbers())
    assert json.loads((tmp_path / "store/written.json").read_text()) == {"rows": ROWS}
