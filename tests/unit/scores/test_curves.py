"""curves.parquet: the trajectories of single runs, sorted, each readable by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from gptfluence.scores.curves import ExampleRun, list_curves, read_curves, write_curves
from gptfluence.scores.simulations import Simulations, read_simulations
from gptfluence.words import HALF_WIDTHS
from trajectories import STEPS, TESTS, Methods, write_simulations

# Not in the file's order.
RUNS = [
    ExampleRun("instruction_tuning", "small", "i-s", "loss", "seen", "i-s-03"),
    ExampleRun("fine_tuning", "small", "f-s-rte", "loss", "seen", "f-s-rte-01"),
    ExampleRun("instruction_tuning", "large", "i-l", "loss", "seen", "i-l-03"),
    ExampleRun("instruction_tuning", "large", "i-l", "bleu", "unseen_test", "i-l-03"),
]


@pytest.fixture
def curves(tmp_path: Path, methods: Methods) -> dict[ExampleRun, Simulations]:
    """Trajectories of four runs that differ in their values."""
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods)
    single = read_simulations(path).single("g-02")
    return {run: replace(single, runs=[run.run_id], values=single.values + n) for n, run in enumerate(RUNS)}


def assert_same(one: Simulations, other: Simulations) -> None:
    assert (one.methods, one.runs, one.starts) == (other.methods, other.runs, other.starts)
    np.testing.assert_array_equal(one.tasks, other.tasks)
    np.testing.assert_array_equal(one.examples, other.examples)
    np.testing.assert_array_equal(one.values, other.values)
    assert list(one.half_widths) == list(other.half_widths) == ["simfluence"]
    np.testing.assert_array_equal(one.half_widths["simfluence"], other.half_widths["simfluence"])


def test_what_was_written_is_read(tmp_path: Path, curves: dict[ExampleRun, Simulations]) -> None:
    path = tmp_path / "curves.parquet"
    write_curves(path, curves)
    assert list_curves(path) == sorted(RUNS)
    read = read_curves(path, RUNS)
    assert list(read) == RUNS
    for run in RUNS:
        assert_same(read[run], curves[run])


def test_values_that_are_not_finite_are_kept(tmp_path: Path, curves: dict[ExampleRun, Simulations]) -> None:
    run = RUNS[0]
    curves[run].of("simfluence")[0, 3, 1] = np.inf
    curves[run].of("measured")[0, 3, 1] = np.nan
    write_curves(tmp_path / "curves.parquet", curves)
    assert_same(read_curves(tmp_path / "curves.parquet", [run])[run], curves[run])


def test_rows_are_tidy_and_sorted(tmp_path: Path, curves: dict[ExampleRun, Simulations]) -> None:
    path = tmp_path / "curves.parquet"
    write_curves(path, curves)
    table = pq.read_table(path)
    names = ["scenario", "model", "group", "metric", "setting", "run_id", "method", "task", "example", "step", "value"]
    assert table.column_names == [*names, *HALF_WIDTHS]
    assert all(pa.types.is_dictionary(table.schema.field(name).type) for name in names[:8])
    rows = table.to_pylist()
    keys = [tuple(row[name] for name in names[:10]) for row in rows]
    assert keys == sorted(set(keys))
    # measured from step 0 on, two methods from 1, one from 2
    assert len(rows) == len(RUNS) * len(TESTS) * (4 * (STEPS + 1) - 4)
    for row in rows[:: len(rows) // 50]:
        run = ExampleRun(*(row[name] for name in names[:6]))
        simulations = curves[run]
        test = list(zip(simulations.tasks, simulations.examples, strict=True)).index((row["task"], row["example"]))
        assert row["value"] == simulations.of(row["method"])[0, row["step"], test]


def test_equal_input_gives_equal_bytes(tmp_path: Path, curves: dict[ExampleRun, Simulations]) -> None:
    write_curves(tmp_path / "first.parquet", curves)
    write_curves(tmp_path / "second.parquet", dict(reversed(curves.items())))
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()


def test_a_reader_of_one_model_reads_nothing_else(tmp_path: Path, curves: dict[ExampleRun, Simulations]) -> None:
    """Shown by destroying all other runs' values."""
    path = tmp_path / "curves.parquet"
    write_curves(path, curves)
    runs = list_curves(path)
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == len(runs)
    content = bytearray(path.read_bytes())
    for number, run in enumerate(runs):
        if run.model != "large":
            values = metadata.row_group(number).column(9)
            start, size = values.data_page_offset, values.total_compressed_size
            content[start : start + size] = bytes(size)
    path.write_bytes(content)
    large = [run for run in runs if run.model == "large"]
    for run, simulations in read_curves(path, large).items():
        assert_same(simulations, curves[run])
    with pytest.raises(UserError, match=r"curves\.parquet: damaged"):
        read_curves(path, runs)


def test_no_runs_no_curves(tmp_path: Path) -> None:
    write_curves(tmp_path / "curves.parquet", {})
    assert list_curves(tmp_path / "curves.parquet") == []


def test_wrong_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "curves.parquet"
    with pytest.raises(UserError, match=r"curves\.parquet: missing"):
        list_curves(path)
    write_parquet(path, pa.table({"value": [1.0]}), {})
    with pytest.raises(UserError, match=r"curves\.parquet: holds no curves"):
        list_curves(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"curves\.parquet: damaged"):
        list_curves(path)


def test_more_than_one_run_is_refused(tmp_path: Path, methods: Methods) -> None:
    write_simulations(tmp_path / "g.loss.parquet", methods)
    with pytest.raises(ValueError, match="trajectories of 4 runs"):
        write_curves(tmp_path / "curves.parquet", {RUNS[0]: read_simulations(tmp_path / "g.loss.parquet")})
    assert not (tmp_path / "curves.parquet").exists()
