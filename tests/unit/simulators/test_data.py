from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_parquet
from gptfluence.simulators.data import load_group
from synthetic import chosen_runs, write_group


def change(path: str, function) -> None:
    write_parquet(path, function(read_parquet(path)), read_provenance(path))


def test_reads_runs_by_hand(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    data = load_group(spec)
    assert data.dynamics.values.shape == (6, 9, 5)
    assert list(data.dynamics.validate) == [False, False, False, True, False, False]
    rows = read_parquet(spec["runs"][1]["shard"]).to_pylist()
    offset = {"b_task": 0, "a_task": 3}
    for row in rows:
        assert data.dynamics.values[1, row["step"], offset[row["task"]] + row["example"]] == row["loss"]
    for row in read_parquet(spec["runs"][5]["curriculum"]).to_pylist():
        expected = {"b_task": 0, "a_task": 6}[row["task"]] + row["example"]
        assert data.curricula.examples[5, row["step"] - 1, row["slot"]] == expected
    by_hand = [[task, 0, example] for task in (0, 1) for example in range(6)]
    np.testing.assert_array_equal(data.features.train, by_hand)
    np.testing.assert_array_equal(data.features.test, [[0, 1, 0], [0, 1, 1], [0, 1, 2], [1, 1, 0], [1, 1, 1]])


def test_order_of_rows_does_not_matter_and_other_tasks_are_left_out(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    before = load_group(spec).dynamics.values
    for run in spec["runs"]:
        change(run["shard"], lambda table: table.take(np.random.default_rng(0).permutation(len(table))))
        change(run["curriculum"], lambda table: table.take(np.random.default_rng(0).permutation(len(table))))
    one = load_group(spec | {"test_tasks": ["a_task"], "test_sizes": {"a_task": 2}, "table": None, "kernels": None})
    np.testing.assert_array_equal(one.dynamics.values, before[:, :, 3:])
    assert one.tasks == ("a_task",)


def test_without_features(tmp_path: Path) -> None:
    data = load_group(write_group(tmp_path) | {"features": None})
    assert data.features.train.shape == (12, 0)
    assert data.features.test.shape == (5, 0)


def drop(condition):
    return lambda table: table.filter(pc.invert(condition(table)))


def with_loss(value: float):
    def change_one(table: pa.Table) -> pa.Table:
        values = table["loss"].to_numpy().copy()
        values[table["step"].to_numpy() == 3] = value
        return table.set_column(3, "loss", pa.array(values))

    return change_one


PROBLEMS = {
    "stale": ("shard", None, "hash3"),
    "step missing": ("shard", drop(lambda t: pc.equal(t["step"], 4)), "step 4"),
    "last step missing": ("shard", drop(lambda t: pc.equal(t["step"], 8)), "steps 0 to 7, but"),
    "example missing": (
        "shard",
        drop(lambda t: pc.and_(pc.equal(t["step"], 2), pc.equal(t["example"], 2))),
        "step 2, test example 2",
    ),
    "row twice": ("shard", lambda t: pa.concat_tables([t, t.slice(0, 1)]), "there twice"),
    "empty": ("shard", lambda t: t.slice(0, 0), "empty"),
    "no column": ("shard", lambda t: t.drop_columns(["loss"]), "no column loss"),
    "null": ("shard", lambda t: t.set_column(3, "loss", pa.nulls(len(t), pa.float32())), "not measured"),
    "nan": ("shard", with_loss(np.nan), "loss is nan at step 3"),
    "infinity": ("shard", with_loss(-np.inf), "loss is -inf at step 3"),
    "batch of another step": (
        "curriculum",
        drop(lambda t: pc.and_(pc.equal(t["step"], 3), pc.equal(t["slot"], 1))),
        "step",
    ),
    "smaller batch": ("curriculum", drop(lambda t: pc.equal(t["slot"], 1)), "1 examples a step"),
    "too few steps": ("curriculum", drop(lambda t: pc.equal(t["step"], 8)), "curriculum has 7 steps, but"),
    "foreign example": (
        "curriculum",
        lambda t: t.set_column(4, "example", pa.array([6] * len(t), pa.int32())),
        "another plan",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_does_not_fit_is_named(name: str, tmp_path: Path) -> None:
    kind, function, message = PROBLEMS[name]
    spec = write_group(tmp_path)
    run = spec["runs"][3]
    path = run["shard"] if kind == "shard" else run["curriculum"]
    if name == "stale":
        run["hash"] = "other"
    else:
        change(path, function)
    with pytest.raises(UserError, match=message) as error:
        load_group(spec)
    assert path in str(error.value)


def test_missing_features_are_named(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    change(spec["features"], drop(lambda t: pc.and_(pc.equal(t["part"], "unseen_pool"), pc.equal(t["example"], 5))))
    with pytest.raises(UserError, match=r"features\.parquet.*plain example 5"):
        load_group(spec)


def test_features_that_are_not_finite_are_named(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    broken = pa.FixedSizeListArray.from_arrays(pa.array(np.full(3 * 34, np.nan, np.float32)), 3)
    change(spec["features"], lambda t: t.set_column(4, "vector", broken))
    with pytest.raises(UserError, match=r"features\.parquet: vectors are not finite"):
        load_group(spec)


def test_missing_shard(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    Path(spec["runs"][0]["shard"]).unlink()
    with pytest.raises(UserError, match="missing"):
        load_group(chosen_runs(spec, "fit"))
