from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.attribution.effects_file import Effects, read_effects, write_effects
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_parquet


@pytest.fixture
def effects() -> Effects:
    """Of two methods, two runs and runs of unequal lengths; one value is not finite."""
    random = np.random.default_rng(1)
    found = {
        (method, run): random.normal(size=(steps, 5)).astype(np.float32)
        for method in ("tracin", "grad_dot")
        for run, steps in (("b-run", 3), ("a-run", 4))
    }
    found["tracin", "a-run"][2, 3] = np.nan
    return found


def test_what_is_written_is_read(effects: Effects, tmp_path: Path) -> None:
    path = tmp_path / "results/effects.parquet"
    write_effects(path, effects, {"checkpoints": 3})
    found = read_effects(path)
    assert list(found) == list(effects)
    for key, values in effects.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], values)
    assert read_provenance(path) == {"checkpoints": 3}


def test_columns(effects: Effects, tmp_path: Path) -> None:
    write_effects(tmp_path / "effects.parquet", effects, {})
    table = read_parquet(tmp_path / "effects.parquet")
    assert table.column_names == ["method", "run_id", "step", "effects"]
    assert pa.types.is_dictionary(table.schema.field("method").type)
    assert table.schema.field("step").type == pa.int32()
    assert table.schema.field("effects").type == pa.list_(pa.float32(), 5)
    assert table["method"].to_pylist() == ["tracin"] * 7 + ["grad_dot"] * 7
    assert table["run_id"].to_pylist()[:7] == ["b-run"] * 3 + ["a-run"] * 4
    assert table["step"].to_pylist()[:7] == [1, 2, 3, 1, 2, 3, 4]


def test_equal_effects_give_equal_bytes(effects: Effects, tmp_path: Path) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_effects(first, effects, {"runs": {"a-run": "1"}})
    write_effects(second, {key: np.asfortranarray(values) for key, values in effects.items()}, {"runs": {"a-run": "1"}})
    assert first.read_bytes() == second.read_bytes()


def test_missing_and_damaged_files_are_named(effects: Effects, tmp_path: Path) -> None:
    path = tmp_path / "effects.parquet"
    with pytest.raises(UserError, match=r"effects\.parquet: missing"):
        read_effects(path)
    write_effects(path, effects, {})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"effects\.parquet: damaged"):
        read_effects(path)


def test_a_missing_step_or_column_is_named(effects: Effects, tmp_path: Path) -> None:
    path = tmp_path / "effects.parquet"
    write_effects(path, effects, {})
    table = read_parquet(path)
    write_parquet(path, table.take([*range(4), *range(5, 14)]), {})
    with pytest.raises(UserError, match="tracin of run a-run has not each step once"):
        read_effects(path)
    write_parquet(path, table.drop_columns(["effects", "step"]), {})
    with pytest.raises(UserError, match="has no column step, effects"):
        read_effects(path)


def test_readers_need_no_torch() -> None:
    code = "import sys, gptfluence.attribution.effects_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
