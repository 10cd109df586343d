"""Files of simulations as dense arrays, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from gptfluence.scores.simulations import read_simulations
from gptfluence.simulators import simulate
from gptfluence.words import MEASURED
from trajectories import RUNS, STEPS, TESTS, Methods, write_simulations


def test_reads_rows_in_any_order(tmp_path: Path, methods: Methods) -> None:
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods)
    simulations = read_simulations(path)
    assert simulations.runs == sorted(RUNS)
    assert list(zip(simulations.tasks, simulations.examples, strict=True)) == sorted(TESTS)
    order = [TESTS.index(test) for test in sorted(TESTS)]
    for method, (start, values) in methods.items():
        expected = values[[RUNS.index(r) for r in simulations.runs]][:, start:, order]
        np.testing.assert_array_equal(simulations.of(method)[:, start:], expected)
        assert np.isnan(simulations.of(method)[:, :start]).all()
    assert dict(zip(simulations.methods, simulations.starts, strict=True)) == {
        "measured": 0, "mean_curve": 1, "order_2": 2, "simfluence": 1,
    }  # fmt: skip


def test_a_single_run_is_a_copy(tmp_path: Path, methods: Methods) -> None:
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods)
    simulations = read_simulations(path)
    single = simulations.single("g-02")
    assert single.runs == ["g-02"]
    assert single.of("measured").shape == (1, STEPS + 1, len(TESTS))
    np.testing.assert_array_equal(single.of("measured")[0], simulations.of("measured")[1])
    assert not np.shares_memory(single.values, simulations.values)


@pytest.mark.parametrize("dictionaries", [True, False])
def test_reads_some_row_groups_alone(tmp_path: Path, methods: Methods, dictionaries: bool) -> None:
    """Each row group may number its words by a dictionary of its own."""
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods)
    table = pq.read_table(path).sort_by("run_id")
    rows = table.num_rows // len(RUNS)
    with pq.ParquetWriter(path, table.schema, use_dictionary=dictionaries) as writer:
        for number in range(len(RUNS)):
            writer.write_table(table.slice(number * rows, rows))
    assert read_simulations(path).runs == sorted(RUNS)
    part = read_simulations(path, [1, 3])
    assert part.runs == ["g-02", "g-unseen-01"]
    first = TESTS.index(("rte", 0))
    np.testing.assert_array_equal(part.of("measured")[0, :, 0], methods["measured"][1][RUNS.index("g-02"), :, first])


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (
            lambda r: (r["method"], r["run_id"], r["step"]) == ("simfluence", "g-02", 4),
            "simfluence lacks steps of run g-02",
        ),
        (lambda r: r["method"] == "measured", "no measured runs"),
    ],
)
def test_incomplete_files_are_named(tmp_path: Path, methods: Methods, drop, message: str) -> None:
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods, drop)
    with pytest.raises(UserError, match=rf"g\.loss\.parquet.*{message}"):
        read_simulations(path)


def test_repeated_and_damaged_files_are_named(tmp_path: Path, methods: Methods) -> None:
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods)
    table = pq.read_table(path)
    write_parquet(path, pa.concat_tables([table, table.slice(0, 1)]), {})
    with pytest.raises(UserError, match="some steps twice"):
        read_simulations(path)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)  # the footer is whole, the first pages are not
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"g\.loss\.parquet: damaged"):
        read_simulations(path)
    with pytest.raises(UserError, match="missing"):
        read_simulations(tmp_path / "none.parquet")


def test_a_flipped_bit_of_a_value_is_damage(tmp_path: Path, methods: Methods) -> None:
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods)
    values = pq.ParquetFile(path).metadata.row_group(0).column(6)
    content = bytearray(path.read_bytes())
    content[values.dictionary_page_offset + values.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"g\.loss\.parquet: damaged"):
        read_simulations(path)


def test_who_simulates_and_who_reads_call_the_truth_the_same() -> None:
    assert simulate.MEASURED == MEASURED
