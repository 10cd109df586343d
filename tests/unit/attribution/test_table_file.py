from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.attribution.table_file import ScoreTables, read_table_file, write_table_file
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_parquet

TRAIN = [("b", 0), ("b", 1), ("a", 0), ("a", 1)]


@pytest.fixture
def tables() -> ScoreTables:
    """Two methods, four training examples, three tests; the order of names is not the alphabet's."""
    random = np.random.default_rng(1)
    scores = {name: random.normal(size=(4, 3)).astype(np.float32) for name in ("trak", "bm25")}
    return ScoreTables(np.array([3, 1, 4, 1]), scores)


def test_what_is_written_is_read(tables: ScoreTables, tmp_path: Path) -> None:
    path = tmp_path / "results/table.parquet"
    write_table_file(path, TRAIN, tables, {"group": "one"})
    found = read_table_file(path)
    assert list(found.scores) == ["trak", "bm25"]
    np.testing.assert_array_equal(found.tokens, tables.tokens)
    for method, values in tables.scores.items():
        assert found.scores[method].dtype == np.float32
        np.testing.assert_array_equal(found.scores[method], values)
    assert read_provenance(path) == {"group": "one"}


def test_columns_and_rows(tables: ScoreTables, tmp_path: Path) -> None:
    write_table_file(tmp_path / "table.parquet", TRAIN, tables, {})
    table = read_parquet(tmp_path / "table.parquet")
    words = pa.dictionary(pa.int32(), pa.string())
    types = {"method": words, "task": words, "example": pa.int32(), "tokens": pa.int32()}
    assert table.schema.names == [*types, "scores"]
    assert {name: table.schema.field(name).type for name in types} == types
    assert table.schema.field("scores").type == pa.list_(pa.float32(), 3)
    assert table["method"].to_pylist() == ["trak"] * 4 + ["bm25"] * 4
    assert list(zip(table["task"].to_pylist(), table["example"].to_pylist(), strict=True)) == TRAIN * 2
    assert table["tokens"].to_pylist() == [3, 1, 4, 1] * 2
    np.testing.assert_array_equal(table["scores"].to_pylist()[6], tables.scores["bm25"][2])


def test_equal_scores_give_equal_bytes(tables: ScoreTables, tmp_path: Path) -> None:
    turned = ScoreTables(tables.tokens, {name: np.asfortranarray(values) for name, values in tables.scores.items()})
    for name, some in (("a", tables), ("b", turned)):
        write_table_file(tmp_path / f"{name}.parquet", TRAIN, some, {"group": "one"})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_missing_and_other_files_are_named(tables: ScoreTables, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    with pytest.raises(UserError, match=r"table\.parquet: missing"):
        read_table_file(path)
    write_parquet(path, pa.table({"method": ["trak"]}), {})
    with pytest.raises(UserError, match=r"table\.parquet: holds no attribution scores\. Delete it"):
        read_table_file(path)
    write_table_file(path, TRAIN, tables, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"table\.parquet"):
        read_table_file(path)


@pytest.mark.parametrize("rows", [range(7), [0, 1, 2, 4, 3, 5, 6, 7], [0, 4, 1, 5, 2, 6, 3, 7]])
def test_methods_that_are_not_whole(tables: ScoreTables, tmp_path: Path, rows: list[int]) -> None:
    """A row is lost, or rows of two methods are mixed."""
    path = tmp_path / "table.parquet"
    write_table_file(path, TRAIN, tables, {})
    write_parquet(path, read_parquet(path).take(list(rows)), {})
    with pytest.raises(UserError, match=r"table\.parquet: the methods' scores are not whole"):
        read_table_file(path)


def test_torch_is_not_imported() -> None:
    """Scores are judged, and simulators made of them, without it."""
    folder = Path(__file__).parents[3] / "workflow"
    code = "import sys, gptfluence.attribution.table_file; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, check=True)
