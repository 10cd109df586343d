"""judge_attribution on a made-up group whose losses follow known scores, and its parts against plain loops."""

import itertools
import json
import logging
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gptfluence.attribution.effects_file import write_effects
from gptfluence.errors import UserError
from gptfluence.io import read_provenance, write_parquet
from gptfluence.scores import attribution
from gptfluence.scores.attribution import SCHEMA, fit_datamodel, judge_attribution, rank_correlations, top_mean
from gptfluence.simulators.base import UNBOUNDED, Curricula, Dynamics
from gptfluence.simulators.data import load_group
from gptfluence.simulators.simfluence import Simfluence
from scipy import stats
from score_tables import write_scores

TASKS, TESTS = ["webnlg", "rte"], {"webnlg": 5, "rte": 3}
POOL, SIZE, STEPS, BATCH, RATE = 12, 16, 12, 2, 0.5
SPLITS = ["fit"] * 8 + ["validate"] * 2 + ["held_out"] * 3 + ["unseen"] + ["subset"] * 20
SUBSET_ORDERS = 2
WHERE = {"group": "g", "scenario": "instruction_tuning", "model": "nano-0.2m"}


def draw_batches(rng, split):
    """Draw half of each task's pool, and put it into a random order: [steps, batch] of rows."""
    first = POOL if split == "unseen" else 0
    size = SIZE - POOL if split == "unseen" else POOL
    rows = [n * SIZE + first + rng.choice(size, size // 2, replace=False) for n in range(len(TASKS))]
    return np.resize(rng.permutation(np.concatenate(rows)), (STEPS, BATCH))


def step_effects(batches, scores, tokens):
    """Return the change of each step: [steps, tests]."""
    weights = tokens[batches] / tokens[batches].sum(axis=1, keepdims=True)
    rates = RATE * (1 - np.arange(STEPS) / STEPS)
    return -rates[:, None] * np.einsum("sb,sbt->st", weights, scores[batches])


def write_run(folder, number, split, batches, values):
    run_id = f"g-{number:02d}"
    grid = [(t, task, e) for t in range(STEPS + 1) for task in TASKS for e in range(TESTS[task])]
    step, task, example = zip(*grid, strict=True)
    table = {"step": pa.array(step, pa.int32()), "task": task, "example": pa.array(example, pa.int32())}
    shard, curriculum = folder / f"{run_id}.shard.parquet", folder / f"{run_id}.parquet"
    write_parquet(shard, pa.table(table | {"loss": values.ravel().astype(np.float32)}), {"hash": run_id})
    step, slot = (axis.ravel() for axis in np.indices(batches.shape, np.int32))
    columns = {"step": step + 1, "slot": slot, "task": [TASKS[row // SIZE] for row in batches.ravel()]}
    write_parquet(curriculum, pa.table(columns | {"example": (batches.ravel() % SIZE).astype(np.int32)}), {})
    row = {"run_id": run_id, "split": split, "learning_rate": RATE, "hash": run_id}
    row |= {"schedule": "linear", "warmup": 0.0}
    return row | {"shard": str(shard), "curriculum": str(curriculum)}


def write_task(path, task, facts):
    """Write what a task's examples state, {(part, example): facts}; the plain format states everything."""
    rows = []
    for part, example in [("pool", e) for e in range(SIZE)] + [("test", e) for e in range(TESTS[task])]:
        part = "unseen_pool" if part == "pool" and example >= POOL else part
        rows.append({"part": part, "example": example, "format": "plain", "facts": [f"fact {n}" for n in range(99)]})
        rows.append(
            {"part": part, "example": example, "format": "instruction", "facts": facts.get((part, example), [])}
        )
    schema = pa.schema([("part", pa.string()), ("example", pa.int32()), ("format", pa.string())])
    write_parquet(path, pa.Table.from_pylist(rows, schema.append(pa.field("facts", pa.list_(pa.string())))), {})
    return str(path)


FACTS = {
    "webnlg": {("pool", 3): ["a", "b"], ("pool", 4): ["a"], ("unseen_pool", 13): ["c"], ("test", 0): ["a"]},
    "rte": {("pool", 0): ["b"], ("test", 1): ["b"], ("test", 2): ["c"]},
}
RELEVANT = {0: [3, 4], 6: [3, 16]}  # test (counted through the tasks): rows; "c" is in the unseen pool alone


def make_spec(folder, facts=FACTS, noise=0.0, orders=SUBSET_ORDERS, drop_methods=()):
    """Write a group whose runs follow the scores of grad_dot, a third of which is tracin_cp's; return the spec."""
    rng = np.random.default_rng(7)
    train, tests = SIZE * len(TASKS), sum(TESTS.values())
    scores, tokens = rng.normal(size=(train, tests)).astype(np.float32), rng.integers(3, 6, train)
    runs, effects, subset = [], {}, None
    for number, split in enumerate(SPLITS):
        batches = draw_batches(rng, split)
        if split == "subset" and subset is not None and number % orders:
            batches = rng.permutation(subset.ravel()).reshape(subset.shape)
        subset = batches if split == "subset" else None
        changes = step_effects(batches, scores.astype(float), tokens)
        start = np.linspace(2, 3, tests)
        values = np.vstack([start, start + np.cumsum(changes, axis=0)])
        values[1:] += noise * rng.normal(size=changes.shape)
        runs.append(write_run(folder, number, split, batches, values))
        if split in ("held_out", "unseen"):
            effects["tracin", runs[-1]["run_id"]] = changes.astype(np.float32)
            effects["grad_dot", runs[-1]["run_id"]] = 2 * changes.astype(np.float32)
    tables = {
        "grad_dot": scores,
        "tracin_cp": scores / 3,
        "random": rng.normal(size=scores.shape),
        "length": np.repeat(tokens[:, None], tests, axis=1),
        "tail_patch": scores / 10 + rng.normal(0, 0.02, scores.shape),
    }
    tables = {name: table for name, table in tables.items() if name not in drop_methods}
    write_effects(folder / "effects.parquet", effects, {})
    (folder / "seconds.json").write_text(json.dumps(dict.fromkeys(tables, 2.5)))
    group = WHERE | {
        "metric": "loss",
        "format": "instruction",
        "train_tasks": TASKS,
        "train_size": SIZE,
        "test_tasks": TASKS,
        "test_sizes": TESTS,
        "runs": runs,
        "table": write_scores(folder / "table.parquet", TASKS, TASKS, tables, tokens),
        "seconds": str(folder / "seconds.json"),
        "replays": [str(folder / "effects.parquet")],
        "task_files": {task: write_task(folder / f"{task}.parquet", task, facts.get(task, {})) for task in TASKS},
        "pool": POOL,
    }
    return {"groups": {"g": group}, "bootstrap_samples": 200, "bootstrap_seed": 1, "confidence": 0.9}


def judge(spec, folder):
    judge_attribution(spec, folder / "attribution.parquet")
    return pq.read_table(folder / "attribution.parquet")


def cells(table):
    return {(row["method"], row["measure"]): row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    spec = make_spec(folder)
    return spec, cells(judge(spec, folder))


def tables_of(spec):
    data = load_group(spec["groups"]["g"])
    return data, data.features.attribution.scores


SIMULATED = ("all_steps_mse", "all_steps_mae", "final_step_spearman", "skill", "across_run_correlation")
RETRIEVED = ("lds", "tail_patch", "mrr", "recall_at_10")
TABLES = ("grad_dot", "tracin_cp", "random", "length", "tail_patch")


def test_rows_are_those_that_say_something(judged):
    _, rows = judged
    simulators = [f"{name}_scaled" for name in TABLES] + ["grad_dot", "tracin_cp", "mean_curve"]
    simulators += ["tracin", "grad_dot_replayed"]
    expected = set(itertools.product(simulators, SIMULATED))
    expected |= set(itertools.product((*TABLES, "datamodel"), RETRIEVED))
    expected |= set(itertools.product(TABLES, ["seconds"])) | {("ceiling", "lds")}
    assert set(rows) == expected
    assert all(math.isfinite(row["value"]) for row in rows.values())
    for (_, measure), row in rows.items():
        if measure != "seconds":
            assert row["low"] - 1e-9 <= row["high"] and row["n"] > 1
    assert rows["random", "seconds"] | WHERE == rows["random", "seconds"]
    assert (rows["random", "seconds"]["value"], rows["random", "seconds"]["n"]) == (2.5, 1)


def test_the_file_is_sorted_and_the_same_twice(tmp_path):
    spec = make_spec(tmp_path)
    table = judge(spec, tmp_path)
    assert table.schema.remove_metadata() == SCHEMA
    keys = [tuple(row[name] for name in SCHEMA.names[:5]) for row in table.to_pylist()]
    assert keys == sorted(set(keys))
    first = (tmp_path / "attribution.parquet").read_bytes()
    judge(json.loads(json.dumps(spec, sort_keys=True)), tmp_path)
    assert (tmp_path / "attribution.parquet").read_bytes() == first
    settings = {"bootstrap_samples": 200, "bootstrap_seed": 1, "confidence": 0.9}
    assert read_provenance(tmp_path / "attribution.parquet") == {"attribution": settings}


def test_without_groups_the_file_is_empty(tmp_path):
    table = judge(make_spec(tmp_path) | {"groups": {}}, tmp_path)
    assert len(table) == 0 and table.schema.remove_metadata() == SCHEMA


# ---------------------------------------------------------------------------------------------------- simulators


def test_scores_that_the_losses_follow_simulate_them(judged):
    _, rows = judged
    for method in ("grad_dot", "grad_dot_scaled", "tracin_cp_scaled", "tracin"):
        assert rows[method, "all_steps_mse"]["value"] < 1e-10
        assert rows[method, "skill"]["value"] == pytest.approx(1)
    assert 0.1 < rows["tracin_cp", "skill"]["value"] < 0.9  # a third of the effect
    assert rows["tracin_cp", "across_run_correlation"]["value"] == pytest.approx(1)
    assert rows["mean_curve", "skill"]["value"] == 0
    assert rows["random_scaled", "skill"]["value"] < 0.5


def test_simulator_measures_are_means_over_tasks(judged):
    spec, rows = judged
    data, _ = tables_of(spec)
    splits = np.array([run["split"] for run in spec["groups"]["g"]["runs"]])
    curve = data.dynamics.values[splits == "fit"].mean(axis=0)
    errors = np.abs(curve - data.dynamics.values[splits == "held_out"])[:, 1:]
    expected = (errors[:, :, :5].mean() + errors[:, :, 5:].mean()) / 2
    assert rows["mean_curve", "all_steps_mae"]["value"] == pytest.approx(expected)
    assert rows["mean_curve", "all_steps_mae"]["n"] == 3


def test_replays_are_added_up(judged):
    spec, rows = judged
    data, _ = tables_of(spec)
    held_out = [n for n, run in enumerate(spec["groups"]["g"]["runs"]) if run["split"] == "held_out"]
    values = data.dynamics.values[held_out]
    wrong = (values - values[:, :1])[:, 1:] ** 2  # twice the change is wrong by the change
    expected = (wrong[:, :, :5].mean() + wrong[:, :, 5:].mean()) / 2
    assert rows["grad_dot_replayed", "all_steps_mse"]["value"] == pytest.approx(expected, rel=1e-4)


def test_held_out_runs_do_not_change_a_scale_nor_a_datamodel(tmp_path):
    spec = make_spec(tmp_path)
    before = cells(judge(spec, tmp_path))
    for run in spec["groups"]["g"]["runs"]:
        if run["split"] == "held_out":
            table = pq.read_table(run["shard"]).to_pydict()
            table["loss"] = np.float32(table["loss"]) + 1 + np.arange(len(table["loss"]), dtype=np.float32) % 5
            types = {"step": pa.int32(), "example": pa.int32()}
            changed = pa.table({name: pa.array(column, types.get(name)) for name, column in table.items()})
            write_parquet(run["shard"], changed, {"hash": run["hash"]})
    after = cells(judge(spec, tmp_path))
    assert after["grad_dot_scaled", "all_steps_mse"]["value"] > 1
    for measure in RETRIEVED:
        assert before["datamodel", measure] == after["datamodel", measure]


# ------------------------------------------------------------------------------------------------- random subsets


def test_lds_equals_plain_loops(judged):
    spec, rows = judged
    data, tables = tables_of(spec)
    final = {}
    for run, batches, values in zip(
        spec["groups"]["g"]["runs"], data.curricula.examples, data.dynamics.values, strict=True
    ):
        if run["split"] == "subset":
            final.setdefault(frozenset(batches.ravel().tolist()), []).append(values[-1])
    assert {len(orders) for orders in final.values()} == {SUBSET_ORDERS}
    truth = np.array([np.mean(orders, axis=0) for orders in final.values()])
    for method in TABLES:
        predicted = np.array([-sum(tables[method][i].astype(float) for i in sorted(s)) for s in final])
        each = [stats.spearmanr(predicted[:, z], truth[:, z]).statistic for z in range(truth.shape[1])]
        assert rows[method, "lds"]["value"] == pytest.approx(np.mean(each))
        assert rows[method, "lds"]["n"] == len(final) == 10
    assert rows["grad_dot", "lds"]["value"] > 0.7
    assert rows["grad_dot", "lds"]["value"] == rows["tracin_cp", "lds"]["value"]


def test_rank_correlations_equal_scipy_on_resamples():
    rng = np.random.default_rng(0)
    predicted, truth = rng.integers(0, 6, (3, 9, 4)).astype(float), rng.integers(0, 5, (9, 4)).astype(float)
    draws = rng.integers(0, 9, (25, 9))
    counts = np.stack([np.bincount(drawn, minlength=9) for drawn in draws]).astype(float)
    found = rank_correlations(predicted, truth, counts)
    for m, r, z in np.ndindex(found.shape):
        expected = stats.spearmanr(predicted[m, draws[r], z], truth[draws[r], z]).statistic
        assert found[m, r, z] == pytest.approx(expected, abs=1e-12)


def test_a_prediction_without_difference_has_no_correlation_and_such_a_truth_does_not_count():
    truth = np.array([[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]])
    found = rank_correlations(np.array([np.zeros((3, 2)), truth * 2]), truth, np.ones((1, 3)))
    np.testing.assert_array_equal(found[:, 0], [[0, np.nan], [1, np.nan]])
    mean = attribution._mean_over_tests(found, np.ones((1, 2)))
    np.testing.assert_array_equal(mean, [[0], [1]])


def test_sums_that_differ_by_rounding_do_not_rank(tmp_path):
    spec = make_spec(tmp_path)
    table = spec["groups"]["g"]["table"]
    scores = {"random": np.full((SIZE * 2, 8), 0.1), "loss": np.random.default_rng(0).normal(size=(SIZE * 2, 8))}
    write_scores(tmp_path / "table.parquet", TASKS, TASKS, scores, np.full(SIZE * 2, 3))
    assert table == str(tmp_path / "table.parquet")
    row = cells(judge(spec, tmp_path))["random", "lds"]  # all subsets have as many examples
    assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


def test_interval_of_lds_is_that_of_resampled_subsets_and_tests(judged):
    spec, rows = judged
    data, tables = tables_of(spec)
    subset = np.array([run["split"] == "subset" for run in spec["groups"]["g"]["runs"]])
    keys = [tuple(sorted(set(batches.ravel().tolist()))) for batches in data.curricula.examples[subset]]
    sets = sorted(set(keys))
    losses = data.dynamics.values[subset, -1]
    truth = np.array([losses[[key == s for key in keys]].mean(axis=0) for s in sets])
    predicted = np.array([-tables["random"][list(s)].sum(axis=0, dtype=float) for s in sets])
    rng = np.random.default_rng(3)
    samples = []
    for _ in range(1500):
        drawn, tests = rng.integers(0, len(sets), len(sets)), rng.integers(0, 8, 8)
        ranks = [stats.zscore(stats.rankdata(values[drawn], axis=0)) for values in (predicted, truth)]
        samples.append(np.mean((ranks[0] * ranks[1]).mean(axis=0)[tests]))
    low, high = np.quantile(samples, [0.05, 0.95])
    width = high - low
    row = rows["random", "lds"]
    assert abs(row["low"] - low) < 0.15 * width and abs(row["high"] - high) < 0.15 * width


def test_ceiling_is_the_correlation_of_the_expected_loss_with_the_mean_over_orders():
    rng = np.random.default_rng(5)
    for orders, noise in ((2, 1.0), (4, 1.5)):
        expected = rng.normal(size=(400, 30))
        repeated = expected + noise * rng.normal(size=(orders, 400, 30))
        once = np.ones((1, 400))
        best = rank_correlations(expected[None], repeated.mean(axis=0), once).mean()
        ceiling = attribution._ceiling(repeated, once, np.ones((1, 30))).item()
        assert ceiling == pytest.approx(best, abs=0.02)
        assert 0.5 < ceiling < 0.95
        assert attribution._ceiling(rng.normal(size=(2, 400, 30)), once, np.ones((1, 30))).item() < 0.2


def test_ceiling_needs_two_orders(judged, tmp_path):
    _, rows = judged
    assert 0.7 < rows["ceiling", "lds"]["value"] <= 1
    assert rows["ceiling", "lds"]["n"] == 10
    row = cells(judge(make_spec(tmp_path, orders=1), tmp_path))["ceiling", "lds"]
    assert (row["value"], row["low"], row["n"]) == (None, None, 20)


# ----------------------------------------------------------------------------------------------------- datamodel


def subset_runs(runs, train=20, draw=8, tests=4, noise=0.0, seed=0, epochs=2):
    """Return runs whose final loss is a sum over their examples; the last quarter validates. And the weights."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(train, tests))
    examples = np.stack(
        [np.resize(rng.choice(train, draw, replace=False), (epochs * draw // 4, 4)) for _ in range(runs)]
    )
    values = rng.normal(size=(runs, examples.shape[1] + 1, tests))
    for run in range(runs):
        values[run, -1] = 3 + weights[np.unique(examples[run])].sum(axis=0) + noise * rng.normal(size=tests)
    return Dynamics(values, np.arange(runs) >= runs * 3 // 4), Curricula(examples), weights


def by_normal_equations(dynamics, curricula, train, strength):
    """Ridge regression with an offset that is not penalised; return the weights and predictions of all runs."""
    included = np.array([np.isin(np.arange(train), batches) for batches in curricula.examples]).astype(float)
    fitting = ~dynamics.validate
    design = np.hstack([included, np.ones((len(included), 1))])
    penalty = strength * np.diag([1.0] * train + [0.0])
    x = design[fitting]
    solved = np.linalg.solve(x.T @ x + penalty, x.T @ dynamics.values[fitting, -1])
    return solved[:-1], design @ solved


@pytest.mark.parametrize("runs", [12, 80])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_datamodel_equals_normal_equations_at_the_strength_best_on_validation_runs(runs, noise):
    dynamics, curricula, _ = subset_runs(runs, noise=noise)
    errors = {}
    for strength in attribution.STRENGTHS:
        weights, predicted = by_normal_equations(dynamics, curricula, 20, strength)
        validate = dynamics.validate
        errors[strength] = (np.mean((predicted - dynamics.values[:, -1])[validate] ** 2), weights)
    best = min(errors.values(), key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(fit_datamodel(dynamics, curricula, 20), -best, atol=1e-6)


def test_datamodel_recovers_sums_and_leaves_unseen_examples_out():
    dynamics, curricula, weights = subset_runs(120)
    table = fit_datamodel(dynamics, curricula, 25)
    # Every subset has as many examples, so a constant is the offset's as well.
    np.testing.assert_allclose(table[:20] - table[:20].mean(axis=0), weights.mean(axis=0) - weights, atol=0.01)
    assert not table[20:].any()


def test_datamodel_is_the_additive_simulator_summed_over_the_run():
    """With the weight of an example shared by its epochs, roll-outs end where the datamodel says."""
    dynamics, curricula, _ = subset_runs(30, noise=0.5)
    weights = -fit_datamodel(dynamics, curricula, 20)
    settings = {"variant": "additive", "aggregation": "sum", "shrink_to": "persistence", "strengths": (1.0,)}
    arrays = {"B": weights / 2, "extent": UNBOUNDED}  # two epochs
    simulator = Simfluence.from_state(arrays, {"settings": settings, "chosen": {"strength": 1.0}})
    simulated = simulator.simulate(curricula, dynamics.values[:, :1])
    sums = attribution.included_examples(curricula, 20) @ weights
    np.testing.assert_allclose(simulated[:, -1], dynamics.values[:, 0] + sums, atol=1e-9)


# ------------------------------------------------------------------------------------------- retrieved examples


def test_top_mean_by_hand_and_with_ties():
    scores = np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 5.0]])
    values = np.array([[10.0, 1.0], [20.0, 2.0], [30.0, 3.0], [40.0, 8.0]])
    np.testing.assert_allclose(top_mean(scores, values, 2), [20, (8 + 2) / 2])
    np.testing.assert_allclose(top_mean(scores, values, 9), values.mean(axis=0))
    rng = np.random.default_rng(1)
    scores, values = rng.integers(0, 3, (7, 5)), rng.normal(size=(7, 5))
    for z in range(5):
        orders = [o for o in itertools.permutations(range(7)) if all(np.diff(scores[list(o), z]) <= 0)]
        assert top_mean(scores, values, 4)[z] == pytest.approx(np.mean([values[list(o[:4]), z] for o in orders]))


def test_tail_patch_takes_the_first_ten_of_the_seen_pool(judged):
    spec, rows = judged
    _, tables = tables_of(spec)
    seen = [n * SIZE + e for n in range(2) for e in range(POOL)]
    for method in TABLES[:3]:
        by_test = []
        for z in range(8):
            order = sorted(seen, key=lambda i, z=z, m=method: -tables[m][i, z])[:10]
            by_test.append(np.mean(tables["tail_patch"][order, z].astype(float)))
        assert rows[method, "tail_patch"]["value"] == pytest.approx(np.mean(by_test))
        assert rows[method, "tail_patch"]["n"] == 8
    best = rows["tail_patch", "tail_patch"]["value"]
    assert all(rows[method, "tail_patch"]["value"] <= best for method in (*TABLES, "datamodel"))
    assert rows["grad_dot", "tail_patch"]["value"] > 0.5 * best > 0 > rows["random", "tail_patch"]["value"] - 0.3 * best


def test_retrieval_by_hand(judged):
    spec, rows = judged
    _, tables = tables_of(spec)
    seen = [n * SIZE + e for n in range(2) for e in range(POOL)]
    for method in ("grad_dot", "random"):
        reciprocal, recall = [], []
        for z, relevant in RELEVANT.items():
            order = sorted(seen, key=lambda i, z=z, m=method: -tables[m][i, z])
            reciprocal.append(1 / (1 + min(order.index(i) for i in relevant)))
            recall.append(np.mean([i in order[:10] for i in relevant]))
        assert rows[method, "mrr"]["value"] == pytest.approx(np.mean(reciprocal))
        assert rows[method, "recall_at_10"]["value"] == pytest.approx(np.mean(recall))
        assert rows[method, "mrr"]["n"] == 2  # the third test asks for what only the unseen pool states


def test_without_facts_or_steps_there_is_no_such_score(tmp_path, caplog):
    spec = make_spec(tmp_path, facts={}, drop_methods=("tail_patch",))
    with caplog.at_level(logging.WARNING, logger="gptfluence"):
        rows = cells(judge(spec, tmp_path))
    for measure in ("mrr", "recall_at_10"):
        row = rows["grad_dot", measure]
        assert (row["value"], row["low"], row["high"], row["n"]) == (None, None, None, 0)
    assert not any(measure == "tail_patch" for _, measure in rows)
    assert "no tail_patch" in caplog.text


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("split", ["fit", "validate", "held_out", "subset"])
def test_a_group_without_runs_of_a_split_cannot_be_judged(split, tmp_path):
    spec = make_spec(tmp_path)
    group = spec["groups"]["g"]
    group["runs"] = [run for run in group["runs"] if run["split"] != split]
    with pytest.raises(UserError, match=f"g: cannot be judged without runs of split {split}"):
        judge(spec, tmp_path)


@pytest.mark.parametrize("file", ["seconds.json", "table.parquet", "effects.parquet", "rte.parquet", "g-20.parquet"])
@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_file_that_cannot_be_read_is_named(file, damage, tmp_path):
    spec = make_spec(tmp_path)
    (tmp_path / file).unlink() if damage == "gone" else (tmp_path / file).write_bytes(b"[1")
    with pytest.raises(UserError, match=rf"{file}.*snakemake"):
        judge(spec, tmp_path)
    assert not (tmp_path / "attribution.parquet").exists()


def test_replays_that_lack_a_run_are_named(tmp_path):
    spec = make_spec(tmp_path)
    write_effects(tmp_path / "effects.parquet", {("tracin", "g-10"): np.zeros((STEPS, 8), np.float32)}, {})
    with pytest.raises(UserError, match=r"effects\.parquet: no tracin of run g-11"):
        judge(spec, tmp_path)


def test_torch_is_not_imported():
    code = "import sys, gptfluence.scores.attribution; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
