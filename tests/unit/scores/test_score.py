"""score_simulations on small files of simulations."""

import csv
import json
import logging
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from gptfluence.errors import UserError
from gptfluence.scores.curves import ExampleRun, list_curves, read_curves
from gptfluence.scores.score import SCHEMA, score_simulations
from trajectories import RUNS, SETTINGS, TESTS, write_simulations

OUTPUTS = ("scores.parquet", "curves.parquet", "metrics.json", "summary.csv")


def run(tmp_path, methods, **changes):
    path = tmp_path / "g.loss.parquet"
    write_simulations(path, methods, changes.pop("drop", None))
    spec = {
        "groups": {"g": {"scenario": "fine_tuning", "model": "nano-0.2m", "runs": SETTINGS}},
        "files": [{"group": "g", "metric": "loss", "path": str(path), "repeats": []}],
        "bootstrap_samples": 200,
        "bootstrap_seed": 1,
        "confidence": 0.9,
    } | changes
    score_simulations(spec, *(tmp_path / name for name in OUTPUTS))
    return pq.read_table(tmp_path / "scores.parquet"), json.loads((tmp_path / "metrics.json").read_text())


def cell(table, **where):
    rows = [row for row in table.to_pylist() if all(row[k] == v for k, v in where.items())]
    assert len(rows) == 1
    return rows[0]


def test_scores_of_seen_and_unseen_runs(tmp_path, methods):
    table, summary = run(tmp_path, methods)
    assert table.schema.remove_metadata() == SCHEMA
    truth, own, curve = (methods[name][1].astype(float) for name in ("measured", "simfluence", "mean_curve"))
    seen = [RUNS.index(name) for name in ("g-01", "g-02", "g-03")]
    rte = [0, 1, 2]
    error = ((own - truth) ** 2)[seen][:, 1:][:, :, rte]
    row = cell(table, task="rte", method="simfluence", setting="seen", measure="all_steps_mse")
    assert row["value"] == pytest.approx(error.mean())
    assert row["std_over_trajectories"] == pytest.approx(error.mean(axis=1).std())
    assert (row["n_runs"], row["n_examples"]) == (3, 3)
    assert row["low"] <= row["value"] <= row["high"]

    near = np.abs(own - truth)[seen][:, 1:][:, :, rte] <= np.float32(0.4)
    row = cell(table, task="rte", method="simfluence", setting="seen", measure="coverage_80")
    assert row["value"] == pytest.approx(near.mean()) and 0.5 < row["value"] < 1
    assert row["low"] <= row["value"] <= row["high"]
    with_intervals = {r["method"] for r in table.to_pylist() if r["measure"].startswith("coverage")}
    assert with_intervals == {"simfluence"}

    # Of the second order: only steps from 2 on count, for the mean curve too.
    own_error = ((own - truth) ** 2)[seen][:, 2:][:, :, rte].mean()
    reference = ((curve - truth) ** 2)[seen][:, 2:][:, :, rte].mean()
    row = cell(table, task="rte", method="order_2", setting="seen", measure="skill")
    assert row["value"] == pytest.approx(1 - own_error / reference)

    row = cell(table, task="sst2", method="simfluence", setting="unseen_train", measure="all_steps_mae")
    unseen = RUNS.index("g-unseen-01")
    assert row["value"] == pytest.approx(np.abs(own - truth)[unseen, 1:][:, [3, 4]].mean())
    assert (row["n_runs"], row["n_examples"], row["low"]) == (1, 2, None)
    # One run has no differences between runs.
    row = cell(table, task="sst2", method="simfluence", setting="unseen_train", measure="across_run_correlation")
    assert row["value"] is None

    tasks = [
        cell(table, task=t, method="simfluence", setting="seen", measure="skill")["value"] for t in ("rte", "sst2")
    ]
    average = cell(table, task="average", method="simfluence", setting="seen", measure="skill")
    assert average["value"] == pytest.approx(np.mean(tasks))
    assert average["n_examples"] == 5
    assert summary["fine_tuning"]["nano-0.2m"]["loss"]["simfluence"]["skill"] == pytest.approx(np.mean(tasks), rel=1e-5)
    assert set(summary["fine_tuning"]["nano-0.2m"]["loss"]) == {"mean_curve", "simfluence", "order_2"}


def test_rows_are_sorted_finite_and_the_files_are_the_same_twice(tmp_path, methods):
    table, _ = run(tmp_path, methods)
    first = [(tmp_path / name).read_bytes() for name in OUTPUTS]
    keys = [tuple(row[name] for name in SCHEMA.names[:7]) for row in table.to_pylist()]
    assert keys == sorted(set(keys))
    for row in table.to_pylist():
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
    run(tmp_path, methods)
    assert [(tmp_path / name).read_bytes() for name in OUTPUTS] == first


def test_without_a_mean_curve_there_is_no_skill_and_the_log_says_so(tmp_path, methods, caplog):
    del methods["mean_curve"]
    with caplog.at_level(logging.WARNING, logger="gptfluence"):
        table, summary = run(tmp_path, methods)
    assert cell(table, task="rte", method="simfluence", setting="seen", measure="skill")["value"] is None
    assert summary["fine_tuning"]["nano-0.2m"]["loss"]["simfluence"]["skill"] is None
    assert "no mean curve on the steps of simfluence" in caplog.text


def test_a_method_that_is_not_finite_has_no_scores(tmp_path, methods):
    methods["simfluence"][1][0, 3, 0] = np.inf
    table, _ = run(tmp_path, methods)
    assert cell(table, task="rte", method="simfluence", setting="seen", measure="all_steps_mse")["value"] is None
    assert cell(table, task="sst2", method="simfluence", setting="seen", measure="all_steps_mse")["value"] is not None
    assert cell(table, task="average", method="simfluence", setting="seen", measure="all_steps_mse")["value"] is None


def test_a_file_with_other_runs_than_its_group_is_named(tmp_path, methods):
    with pytest.raises(UserError, match=r"g\.loss\.parquet: does not hold the runs of g \(differing: g-02\)"):
        run(tmp_path, methods, drop=lambda row: row["run_id"] == "g-02")
    with pytest.raises(UserError, match=r"g\.loss\.parquet.* lacks steps"):
        run(tmp_path, methods, drop=lambda row: (row["run_id"], row["step"]) == ("g-02", 4))


def test_curves_are_those_of_the_first_held_out_and_the_first_unseen_run(tmp_path, methods):
    settings = SETTINGS | {"g-01": "unseen_train"}  # the first by name, but not of seen data
    groups = {"g": {"scenario": "fine_tuning", "model": "nano-0.2m", "runs": settings}}
    run(tmp_path, methods, groups=groups)
    where = ("fine_tuning", "nano-0.2m", "g", "loss")
    shown = [ExampleRun(*where, "seen", "g-02"), ExampleRun(*where, "unseen_train", "g-01")]
    assert list_curves(tmp_path / "curves.parquet") == shown
    order = [TESTS.index(test) for test in sorted(TESTS)]
    for of, simulations in read_curves(tmp_path / "curves.parquet", shown).items():
        for method, (start, values) in methods.items():
            expected = values[RUNS.index(of.run_id), start:][:, order]
            np.testing.assert_array_equal(simulations.of(method)[0, start:], expected)


def test_summary_holds_the_averages_six_digits_each(tmp_path, methods):
    del methods["mean_curve"]  # so that there is no skill
    table, summary = run(tmp_path, methods)
    lines = list(csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()))
    assert list(lines[0]) == ["name", "all_steps_mse", "final_step_spearman", "skill", "across_run_correlation"]
    assert [line["name"] for line in lines] == [
        f"fine_tuning nano-0.2m loss {method}" for method in ("order_2", "simfluence")
    ]
    for line in lines:
        averages = summary["fine_tuning"]["nano-0.2m"]["loss"][line["name"].split()[-1]]
        assert line["skill"] == ""
        assert float(line["all_steps_mse"]) == averages["all_steps_mse"]
        where = {"task": "average", "setting": "seen", "method": line["name"].split()[-1]}
        correlation = cell(table, measure="across_run_correlation", **where)["value"]
        assert float(line["across_run_correlation"]) == pytest.approx(correlation, rel=1e-5)
        assert len(line["across_run_correlation"].removeprefix("-").removeprefix("0.").lstrip("0")) <= 6
