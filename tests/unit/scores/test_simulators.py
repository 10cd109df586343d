from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gptfluence.attribution.effects_file import write_effects
from gptfluence.errors import UserError
from gptfluence.io import read_provenance, write_parquet
from gptfluence.scores import measures
from gptfluence.scores.curves import list_curves, read_curves
from gptfluence.scores.simulators import SCHEMA, judge_simulators, refit_simulators
from gptfluence.simulators.base import Part
from gptfluence.simulators.data import load_group
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.registry import make_method, make_pooled
from scipy.stats import spearmanr
from synthetic import METHOD_SETTINGS, chosen_runs, write_group

SPLITS = ("fit", "fit", "fit", "validate", "held_out", "held_out", "unseen", "unseen", *["subset"] * 5)
SETTINGS = {"kind": "gradient_response", "kernels": ["sgd", "adamw"], "momenta": [0.0], "decays": [1.0, 0.5]}
SETTINGS["strengths"] = [0.01, 1.0]
FILES = {"features": None, "table": None, "kernels": None}


def make_spec(folder: Path, metric: str = "loss", splits: tuple[str, ...] = SPLITS) -> dict[str, Any]:
    group = write_group(folder, metric, splits=splits)
    response = FILES | {"settings": SETTINGS, "kernels": group["kernels"], "learning": True}
    one_kernel = FILES | {"settings": SETTINGS | {"kernels": ["sgd"]}, "kernels": group["kernels"]}
    response["variants"] = {"one_kernel": one_kernel}
    curve = FILES | {"settings": {"kind": "mean_curve"}, "variants": {}, "learning": True}
    group["methods"] = {"mean_curve": curve, "gradient_response": response}
    predicted = response | {"settings": SETTINGS | {"kind": "predicted_curve"}}
    persistence = FILES | {"settings": {"kind": "persistence"}, "learning": False}
    group["elsewhere"] = {"groups": [], "methods": {}}
    group["unseen_tests"] = {"predicted_curve": predicted, "persistence": persistence, "gradient_response": response}
    group["schedules"], group["own_steps"], group["own_losses"] = {}, [], False
    judging = {"runs": [2, 3, 5, 8, 99], "draws": 3, "seed": 0, "folds": 2, "intervals": [3, 50], "tests": [1, 9]}
    return group | {"judging": judging | BOOTSTRAP}


BOOTSTRAP = {"bootstrap_samples": 100, "bootstrap_seed": 1, "confidence": 0.9}


def with_judging(spec: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return spec | {"judging": spec["judging"] | changed}


Rows = dict[tuple[str, str, str, int, str], dict[str, Any]]
"""Method, variant, what is varied, its number and measure to row, of one setting and task."""


def judge(spec: dict[str, Any], folder: Path, setting: str = "seen", task: str = "average") -> Rows:
    path = folder / "simulators.parquet"
    if not path.exists():
        refit_simulators(spec, path, folder / "unseen_curves.parquet")
    table = pq.read_table(path)
    assert table.schema.remove_metadata() == SCHEMA
    names = ("method", "variant", "varied", "number", "measure")
    rows = [row for row in table.to_pylist() if row["setting"] == setting and row["task"] == task]
    return {tuple(row[name] for name in names): row for row in rows}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_spec(tmp_path_factory.mktemp("group"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judged")


@pytest.fixture(scope="module")
def rows(spec: dict[str, Any], judged: Path) -> Rows:
    return judge(spec, judged)


def test_has_every_variant_and_number_of_runs(rows: Rows) -> None:
    measured = {key[:4] for key in rows}
    assert measured == {
        ("mean_curve", "whole", "", 0),
        ("gradient_response", "whole", "", 0),
        ("gradient_response", "one_kernel", "", 0),
        *(("mean_curve", "whole", "runs", runs) for runs in (2, 3, 5, 8)),
        *(("gradient_response", "whole", "runs", runs) for runs in (2, 3, 5, 8)),
        *(("gradient_response", "whole", "chosen_runs", runs) for runs in (5, 8)),
        *((method, "whole", "interval", 3) for method in ("mean_curve", "gradient_response")),
    }


def test_own_steps_that_tell_all_leave_nothing_to_explain(spec: dict[str, Any], tmp_path: Path) -> None:
    splits = ("fit", "validate"), ("held_out",), ("unseen",)
    paths = []
    for number, of_file in enumerate(splits):
        data = load_group(chosen_runs(spec | {"features": None, "table": None, "kernels": None}, *of_file))
        steps = np.diff(data.dynamics.values[:, 1:], axis=1, prepend=0)  # made-up runs do not start alike
        noise = 0.01 * steps.std() * np.random.default_rng(number).normal(size=steps.shape)
        effects = {("tracin", run): of_run for run, of_run in zip(data.runs, noise, strict=True)}
        effects |= {("tracin_adamw", run): of_run for run, of_run in zip(data.runs, steps, strict=True)}
        paths.append(str(tmp_path / f"{number}.parquet"))
        write_effects(paths[-1], effects, {})
    rows = judge(spec | {"own_steps": paths}, tmp_path)
    told = {key[:2] for key in rows if key[1] == "own_gradients"}
    assert told == {("gradient_response", "own_gradients")}
    key = ("gradient_response", "own_gradients", "", 0)
    assert rows[*key, "skill"]["value"] > 0.9 > rows["gradient_response", "whole", "", 0, "skill"]["value"]
    assert ("gradient_response", "own_gradients", "", 0, "skill") in judge({}, tmp_path, "unseen_train")


@pytest.mark.parametrize("noise", [0.0, 100.0])
def test_texts_that_losses_tell_of(tmp_path: Path, noise: float) -> None:
    """BLEU falls as the loss rises, for each test by another multiple; with much noise losses say next to nothing."""
    spec = make_spec(tmp_path, "bleu")
    generator = np.random.default_rng(5)
    for run in spec["runs"]:
        path = Path(run["shard"])
        table, provenance = pq.read_table(path), read_provenance(path)
        losses = generator.uniform(1, 2, len(table)).astype(np.float32)
        slope = 1.0 + np.arange(len(table)) % 5  # tests of a step lie one behind the other
        bleu = (50 - slope * losses + noise * generator.normal(size=len(table))).astype(np.float32)
        for name, values in (("loss", losses), ("bleu", bleu)):
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
        write_parquet(path, table.replace_schema_metadata(None), provenance)
    spec |= {"own_losses": True, "methods": {"mean_curve": spec["methods"]["mean_curve"]}, "unseen_tests": {}}
    rows = judge(spec, tmp_path)
    known = rows["mean_curve", "own_losses", "", 0, "skill"]["value"]
    if not noise:
        assert known > 0.99  # the weakest ridge is strong enough to take a hundredth
        assert judge(spec, tmp_path, "unseen_train")["mean_curve", "own_losses", "", 0, "skill"]["value"] > 0.99
    else:
        assert abs(known) < 0.1
    fitted, held_out = (
        [load_group(chosen_runs(spec | FILES | {"metric": metric}, *splits)).dynamics for metric in ("loss", "bleu")]
        for splits in (("fit", "validate"), ("held_out",))
    )
    fit = ~fitted[0].validate
    errors = {}
    for strength in (0.01, 0.1, 1.0, 10.0, 100.0):
        per_test = []
        mean_square = np.mean([
            np.square(fitted[0].values[fit, :, z] - fitted[0].values[fit, :, z].mean(axis=0)).sum() for z in range(5)
        ])  # fmt: skip
        for z in range(5):
            loss, bleu = (of_metric.values[:, :, z] - of_metric.values[fit, :, z].mean(axis=0) for of_metric in fitted)
            x, y = np.append(loss[fit].ravel(), np.sqrt(strength * mean_square)), np.append(bleu[fit].ravel(), 0)
            (slope,) = np.linalg.lstsq(x[:, None], y, rcond=None)[0]
            other, truth = (
                held.values[:, :, z] - of_metric.values[fit, :, z].mean(axis=0)
                for held, of_metric in zip(held_out, fitted, strict=True)
            )
            per_test.append((
                np.square(bleu[~fit] - slope * loss[~fit]).sum(), np.square((slope * other - truth)[:, 1:]).mean()
            ))  # fmt: skip
        errors[sum(validation for validation, _ in per_test)] = [error for _, error in per_test]
    best = errors[min(errors)]
    expected = (np.mean(best[:3]) + np.mean(best[3:])) / 2  # tasks weigh alike
    assert rows["mean_curve", "own_losses", "", 0, "all_steps_mse"]["value"] == pytest.approx(expected, rel=1e-6)


def by_hand(spec: dict[str, Any], settings: dict[str, Any]) -> tuple[float, float]:
    """Return MSE and skill of a gradient response, means over the two tasks."""
    group = spec | {"features": None, "table": None}
    fitted = load_group(chosen_runs(group, "fit", "validate"))
    held_out = load_group(chosen_runs(group, "held_out") | {"kernels": None})
    simulator = GradientResponse(**{key: tuple(value) for key, value in settings.items() if key != "kind"})
    simulator.fit(fitted.dynamics, fitted.curricula, fitted.features)
    truth = held_out.dynamics.values
    errors = (simulator.simulate(held_out.curricula, truth[:, :1]) - truth)[:, 1:] ** 2
    curve = (fitted.dynamics.values[:3].mean(axis=0) - truth)[:, 1:] ** 2
    of_tasks = [(errors[..., tests].mean(), curve[..., tests].mean()) for tests in (slice(0, 3), slice(3, 5))]
    return float(np.mean([e for e, _ in of_tasks])), float(np.mean([1 - e / c for e, c in of_tasks]))


@pytest.mark.parametrize(("variant", "changed"), [("whole", {}), ("one_kernel", {"kernels": ["sgd"]})])
def test_variants_equal_fits_by_hand(rows: Rows, spec: dict[str, Any], variant: str, changed: dict[str, Any]) -> None:
    mse, skill = by_hand(spec, SETTINGS | changed)
    key = ("gradient_response", variant, "", 0)
    assert rows[*key, "all_steps_mse"]["value"] == pytest.approx(mse, rel=1e-9)
    assert rows[*key, "skill"]["value"] == pytest.approx(skill, rel=1e-9)
    assert rows[*key, "skill"]["low"] <= rows[*key, "skill"]["value"] <= rows[*key, "skill"]["high"]


@pytest.mark.parametrize("measure", ["all_steps_mse", "skill", "across_run_correlation"])
@pytest.mark.parametrize("method", ["mean_curve", "gradient_response"])
def test_as_many_runs_as_the_group_has_are_all_of_them(rows: Rows, method: str, measure: str) -> None:
    whole, random = rows[method, "whole", "", 0, measure], rows[method, "whole", "runs", 3, measure]
    assert random["value"] == pytest.approx(whole["value"], rel=1e-9)
    assert (whole["n"], random["n"]) == (1, 3)


def test_all_runs_leave_nothing_to_choose(rows: Rows) -> None:
    """Of 3 own and 5 subset runs, 8 are fitted on, whatever was chosen first."""
    key = ("gradient_response", "whole")
    random, chosen = (rows[*key, choice, 8, "all_steps_mse"]["value"] for choice in ("runs", "chosen_runs"))
    assert random == pytest.approx(chosen, rel=1e-9)


def test_skill_is_over_the_mean_curve_of_all_own_runs(rows: Rows) -> None:
    assert rows["mean_curve", "whole", "runs", 3, "skill"]["value"] == pytest.approx(0, abs=1e-9)
    assert rows["mean_curve", "whole", "runs", 2, "skill"]["value"] < 0
    assert rows["mean_curve", "whole", "runs", 2, "across_run_correlation"]["value"] == 0


def test_runs_measured_at_some_steps_are_straight_lines_between(rows: Rows, spec: dict[str, Any]) -> None:
    """Of 8 steps, 0, 3, 6 and the last are measured: the mean curve there, by hand."""
    group = spec | FILES
    fit, held_out = (load_group(chosen_runs(group, split)).dynamics.values for split in ("fit", "held_out"))
    curve = fit.mean(axis=0)
    for t, (a, b) in {1: (0, 3), 2: (0, 3), 4: (3, 6), 5: (3, 6), 7: (6, 8)}.items():
        curve[t] = (curve[a] * (b - t) + curve[b] * (t - a)) / (b - a)
    errors = (curve - held_out)[:, 1:] ** 2
    expected = np.mean([errors[..., :3].mean(), errors[..., 3:].mean()])
    assert rows["mean_curve", "whole", "interval", 3, "all_steps_mse"]["value"] == pytest.approx(expected)


def test_random_runs_are_means_over_draws(spec: dict[str, Any], rows: Rows, tmp_path: Path) -> None:
    """One draw alone has another value, and of the mean curve's MSE the mean of two runs' curves is known."""
    group = spec | {"features": None, "table": None, "kernels": None}
    fit, held_out = (load_group(chosen_runs(group, split)).dynamics.values for split in ("fit", "held_out"))
    counts = np.ones((1, 2))
    possible = []
    for left_out in range(3):
        curve = np.delete(fit, left_out, axis=0).mean(axis=0)
        by_task = [
            measures.all_steps_mse(np.broadcast_to(curve[1:, tests], held_out[:, 1:, tests].shape),
                                   held_out[:, 1:, tests], counts).value
            for tests in (slice(0, 3), slice(3, 5))
        ]  # fmt: skip
        possible.append(np.mean(by_task))
    found = rows["mean_curve", "whole", "runs", 2, "all_steps_mse"]["value"]
    sums = [(possible[a] + possible[b] + possible[c]) / 3 for a in range(3) for b in range(3) for c in range(3)]
    assert np.min(np.abs(np.array(sums) - found)) < 1e-12
    again = judge(with_judging(spec, draws=1), tmp_path)
    assert (
        np.min(np.abs(np.array(possible) - again["mean_curve", "whole", "runs", 2, "all_steps_mse"]["value"])) < 1e-12
    )


def test_without_subset_runs_nothing_is_beyond_the_own_runs(tmp_path: Path) -> None:
    rows = judge(make_spec(tmp_path, "bleu", SPLITS[:6]), tmp_path)
    assert {key[3] for key in rows if key[2] == "runs"} == {2, 3}
    assert not any(key[2] == "chosen_runs" for key in rows)


def test_all_groups_stand_in_one_table(spec: dict[str, Any], judged: Path, rows: Rows, tmp_path: Path) -> None:
    assert rows
    path = judged / "simulators.parquet"
    curves = [str(judged / "unseen_curves.parquet")]
    files = {"refits": [str(path), str(path)], "curves": curves, "judging": {"folds": 3}}
    judge_simulators(files, tmp_path / "all.parquet", tmp_path / "curves.parquet")
    assert read_provenance(tmp_path / "all.parquet")["simulators"] == {"folds": 3}
    assert pq.read_table(tmp_path / "all.parquet").to_pylist() == 2 * pq.read_table(path).to_pylist()


def test_no_groups_give_an_empty_table(tmp_path: Path) -> None:
    empty = {"refits": [], "curves": [], "judging": {}}
    judge_simulators(empty, tmp_path / "all.parquet", tmp_path / "curves.parquet")
    assert pq.read_table(tmp_path / "all.parquet").schema.remove_metadata() == SCHEMA


# Seen runs by split, tests known and hidden in each fold: tests 0 and 2, 1 of the first task, 3, 4 of the second.
FOLDS = (np.array([1, 4]), np.array([0, 2, 3])), (np.array([0, 2, 3]), np.array([1, 4]))


def on_unseen_tests(spec: dict[str, Any], split: str) -> tuple[np.ndarray, ...]:
    """Return simulations, predicted curves and truth of each test, by fits that were not given it."""
    group = spec | {"features": None, "table": None}
    fitted = load_group(chosen_runs(group, "fit", "validate"))
    runs = load_group(chosen_runs(group, split) | {"kernels": None})
    truth = runs.dynamics.values
    simulated, curves = np.empty_like(truth), np.empty_like(truth)
    for known, hidden in FOLDS:
        simulator = GradientResponse(**{key: tuple(value) for key, value in SETTINGS.items() if key != "kind"})
        # What is measured of hidden tests, but for their first value, is noise here: it must not be looked at.
        dynamics = replace(fitted.dynamics, values=fitted.dynamics.values[..., known])
        simulator.fit(dynamics, fitted.curricula, fitted.features.of_tests(known))
        first = fitted.dynamics.values[0, 0, hidden]
        other = simulator.transfer(fitted.features.of_tests(hidden), first)
        simulated[..., hidden] = other.simulate(runs.curricula, truth[:, :1, hidden])
        curves[..., hidden] = other.known.curve
    return simulated, curves, truth


@pytest.mark.parametrize(("setting", "split"), [("unseen_test", "held_out"), ("unseen_both", "unseen")])
def test_unseen_tests_equal_fits_without_them(
    spec: dict[str, Any], judged: Path, rows: Rows, setting: str, split: str
) -> None:
    found = judge(spec, judged, setting)
    assert {key[0] for key in found} == {"predicted_curve", "persistence", "gradient_response"}
    simulated, curves, truth = on_unseen_tests(spec, split)
    of_task = (slice(0, 3), slice(3, 5))
    mse = {
        "gradient_response": [((simulated - truth)[:, 1:, tests] ** 2).mean() for tests in of_task],
        "predicted_curve": [((curves - truth)[:, 1:, tests] ** 2).mean() for tests in of_task],
        "persistence": [((truth[:, :1] - truth)[:, 1:, tests] ** 2).mean() for tests in of_task],
    }
    for method, own in mse.items():
        key = (method, "whole", "", 0)
        assert found[*key, "all_steps_mse"]["value"] == pytest.approx(np.mean(own), rel=1e-6)
        skill = np.mean([1 - a / b for a, b in zip(own, mse["predicted_curve"], strict=True)])
        assert found[*key, "skill"]["value"] == pytest.approx(skill, rel=1e-5, abs=1e-9)
    # Each fold knows one test of the smaller task: as many of the larger are fewer than all.
    assert {key[3] for key in found if key[2] == "tests"} == {1}
    fewer = found["gradient_response", "whole", "tests", 1, "all_steps_mse"]["value"]
    assert fewer != pytest.approx(found["gradient_response", "whole", "", 0, "all_steps_mse"]["value"], rel=1e-3)
    assert not any(key[4].startswith("coverage") for key in found)  # of one known test, errors are not known


def test_intervals_of_unseen_tests_stand_with_their_tests(spec: dict[str, Any], tmp_path: Path) -> None:
    """Of one task with 3 tests in 3 folds, each fit knows two others: what lies in the intervals is counted by hand."""
    group = spec | {"test_tasks": ["b_task"]}
    found = judge(with_judging(group, folds=3), tmp_path, "unseen_test")
    fitted = load_group(chosen_runs(group, "fit", "validate") | FILES | {"kernels": group["kernels"]})
    runs = load_group(chosen_runs(group, "held_out") | FILES)
    truth, inside = runs.dynamics.values, []
    for hidden in range(3):
        known = np.delete(np.arange(3), hidden)
        simulator = GradientResponse(**{key: tuple(value) for key, value in SETTINGS.items() if key != "kind"})
        dynamics = replace(fitted.dynamics, values=fitted.dynamics.values[..., known])
        simulator.fit(dynamics, fitted.curricula, fitted.features.of_tests(known))
        other = simulator.transfer(fitted.features.of_tests(np.array([hidden])), fitted.dynamics.values[0, 0, [hidden]])
        half_widths = other.half_widths(runs.curricula)
        assert half_widths is not None
        error = other.simulate(runs.curricula, truth[:, :1, [hidden]]) - truth[..., [hidden]]
        inside.append((np.abs(error) <= half_widths)[:, :, 1:].mean(axis=(1, 2, 3)))
    for level, expected in zip(("coverage_50", "coverage_80", "coverage_95"), np.mean(inside, axis=0), strict=True):
        assert found["gradient_response", "whole", "", 0, level]["value"] == pytest.approx(expected)


def test_unseen_training_examples_are_judged_against_the_mean_curve(
    spec: dict[str, Any], judged: Path, rows: Rows
) -> None:
    found = judge(spec, judged, "unseen_train")
    assert found["mean_curve", "whole", "", 0, "skill"]["value"] == pytest.approx(0, abs=1e-9)
    fit, unseen = (
        load_group(chosen_runs(spec | {"features": None, "table": None}, split)).dynamics.values
        for split in ("fit", "unseen")
    )
    errors = (fit.mean(axis=0) - unseen)[:, 1:] ** 2
    expected = np.mean([errors[..., :3].mean(), errors[..., 3:].mean()])
    assert found["mean_curve", "whole", "", 0, "all_steps_mse"]["value"] == pytest.approx(expected, rel=1e-6)


def test_scores_of_tasks_and_their_averages(rows: Rows, spec: dict[str, Any], judged: Path) -> None:
    by_task = [judge(spec, judged, task=task) for task in ("b_task", "a_task")]
    assert not any(key[2] for found in by_task for key in found)  # nothing is varied
    for key, row in rows.items():
        if not key[2]:
            parts = [found[key] for found in by_task]
            assert row["value"] == pytest.approx(np.mean([part["value"] for part in parts]))
            assert {part["n_runs"] for part in parts} == {2}
    group = spec | FILES
    fit, held_out = (load_group(chosen_runs(group, split)).dynamics.values for split in ("fit", "held_out"))
    errors = np.abs(fit.mean(axis=0) - held_out)[:, 1:, :3]
    row = by_task[0]["mean_curve", "whole", "", 0, "all_steps_mae"]
    assert row["value"] == pytest.approx(errors.mean())
    assert row["std_over_trajectories"] == pytest.approx(errors.mean(axis=1).std())
    final = [spearmanr(fit.mean(axis=0)[-1, :3], values[-1, :3])[0] for values in held_out]
    row = by_task[0]["mean_curve", "whole", "", 0, "final_step_spearman"]
    assert (row["value"], row["std_over_runs"]) == (pytest.approx(np.mean(final)), pytest.approx(np.std(final)))


def test_curves_of_unseen_tests_are_those_of_fits_without_them(spec: dict[str, Any], judged: Path, rows: Rows) -> None:
    path = judged / "unseen_curves.parquet"
    shown = list_curves(path)
    assert [(run.setting, run.run_id) for run in shown] == [("unseen_both", "g-06"), ("unseen_test", "g-04")]
    for run, split in zip(shown, ("unseen", "held_out"), strict=True):
        simulated, curves, truth = on_unseen_tests(spec, split)
        found = read_curves(path, [run])[run]
        assert list(zip(found.tasks, found.examples, strict=True)) == [
            *(("a_task", i) for i in range(2)), *(("b_task", i) for i in range(3)),
        ]  # fmt: skip
        expected = {"measured": truth, "gradient_response": simulated, "predicted_curve": curves,
                    "persistence": np.broadcast_to(truth[:, :1], truth.shape)}  # fmt: skip
        assert found.methods == sorted(expected)
        for method, values in expected.items():
            first = 0 if method == "measured" else 1
            np.testing.assert_allclose(found.of(method)[0, first:], values[0, first:, [3, 4, 0, 1, 2]].T, rtol=1e-5)


def test_simulators_of_a_mixture_on_runs_of_one_task(tmp_path: Path) -> None:
    """Folds and slices of the task's tests by hand."""
    spec = make_spec(tmp_path)
    bilinear = METHOD_SETTINGS["gptfluence"] | {"order": 1}
    method = FILES | {"settings": bilinear, "features": spec["features"]}
    summed = method | {"settings": bilinear | {"aggregation": "sum"}}
    (tmp_path / "other").mkdir()
    other = write_group(tmp_path / "other", seed=3, splits=("fit", "fit", "held_out", "unseen"))
    kept = chosen_runs(other, "fit", "held_out", "unseen")
    # The fitted group has the other one's examples in another order: its first three are the last ones there.
    size = len(kept["train_tasks"]) * kept["train_size"]
    rows, places = np.roll(np.arange(size), 3), [[0, 2, size - 3], [3, size - 1, 0]]
    spec["elsewhere"] = {
        "groups": [
            {key: kept[key] for key in ("runs", "train_tasks", "train_size")}
            | {"group": "other", "task": "a_task", "rows": places}
        ],
        "methods": {"gptfluence": method | {"variants": {"batch_sum": summed}}},
    }
    spec["methods"], spec["unseen_tests"] = {}, {}
    fitted = load_group(chosen_runs(spec, "fit", "validate") | FILES | {"features": method["features"]})
    for setting, split in (("seen", "held_out"), ("unseen_train", "unseen")):
        there = load_group(chosen_runs(other, split) | FILES)
        curricula = replace(there.curricula, examples=rows[there.curricula.examples])
        truth = there.dynamics.values
        curve = load_group(chosen_runs(other, "fit") | FILES).dynamics.values.mean(axis=0)
        for variant, settings in (("whole", bilinear), ("batch_sum", summed["settings"])):
            simulated = {name: np.empty_like(truth) for name in ("seen", "unseen")}
            simulator = make_method("gptfluence", settings)
            simulator.fit(fitted.dynamics, fitted.curricula, fitted.features)
            simulated["seen"] = simulator.simulate(curricula, truth[:, :1])
            for known, hidden in FOLDS:
                simulator = make_method("gptfluence", settings)
                dynamics = replace(fitted.dynamics, values=fitted.dynamics.values[..., known])
                simulator.fit(dynamics, fitted.curricula, fitted.features.of_tests(known))
                others = simulator.transfer(fitted.features.of_tests(hidden), truth[0, 0, hidden])
                simulated["unseen"][..., hidden] = others.simulate(curricula, truth[:, :1, hidden])
            names = {"seen": setting, "unseen": {"seen": "unseen_test", "unseen_train": "unseen_both"}[setting]}
            for tests, name in names.items():
                found = judge(spec, tmp_path, f"elsewhere_{name}", "a_task")
                error = ((simulated[tests] - truth)[:, 1:, 3:] ** 2).mean()
                assert found["gptfluence", variant, "", 0, "all_steps_mse"]["value"] == pytest.approx(error, rel=1e-6)
                reference = ((curve - truth)[:, 1:, 3:] ** 2).mean()
                skill = found["gptfluence", variant, "", 0, "skill"]["value"]
                assert skill == pytest.approx(1 - error / reference, rel=1e-5)
                own = found["mean_curve", "whole", "", 0, "all_steps_mse"]["value"]
                assert own == pytest.approx(reference, rel=1e-6)
    assert judge(spec, tmp_path, "elsewhere_seen") == {}  # no averages over tasks


def test_a_method_that_needs_runs_of_a_test_is_named(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    spec["unseen_tests"]["mean_curve"] = FILES | {"settings": {"kind": "mean_curve"}, "learning": False}
    with pytest.raises(UserError, match="mean_curve: cannot simulate tests that it was not fitted on"):
        judge(spec, tmp_path)


# ------------------------------------------------------------------------------------------------- schedules

POOLED = ("fit", "fit", "validate", "held_out", "held_out")
OTHERS: dict[str, dict[str, Any]] = {"short": {"steps": 4}, "fast": {"learning_rate": 3e-2, "schedule": "constant"}}


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A group with runs under two other schedules, of other lengths, and the scores of it."""
    folder = tmp_path_factory.mktemp("pooled")
    spec = make_spec(folder, splits=SPLITS[:6])
    runs = {}
    for seed, (name, settings) in enumerate(OTHERS.items(), 1):
        (folder / name).mkdir()
        runs[name] = write_group(folder / name, seed=seed, splits=POOLED, **settings)["runs"]
    response = FILES | {"settings": SETTINGS, "kernels": spec["kernels"]}
    curve = FILES | {"settings": {"kind": "time_curve"}}
    spec["schedules"] = {"runs": runs, "methods": {"time_curve": curve, "gradient_response": response}}
    spec["methods"], spec["unseen_tests"] = {}, {}
    judge(spec, folder, "schedule_seen")
    return spec, folder


def test_schedules_equal_pooled_fits_by_hand(pooled: tuple[dict[str, Any], Path]) -> None:
    group, folder = pooled
    plain = group | FILES
    runs = {"own": group["runs"]} | group["schedules"]["runs"]

    def of(name: str, *splits: str) -> Any:
        return load_group(chosen_runs(plain | {"runs": runs[name]}, *splits))

    parts = {name: of(name, "fit", "validate") for name in runs}
    features = load_group(chosen_runs(group | {"features": None, "table": None}, "fit")).features
    mse = []
    for setting, name in (("schedule_seen", "short"), ("schedule_unseen", "short"), ("schedule_unseen", "fast")):
        kept = [part for other, part in parts.items() if setting == "schedule_seen" or other != name]
        simulator = make_pooled("mine", SETTINGS, parts["own"].curricula.rates[0])
        simulator.fit_parts([Part(part.dynamics, part.curricula) for part in kept], features)
        held_out = of(name, "held_out")
        truth = held_out.dynamics.values
        errors = (simulator.simulate(held_out.curricula, truth[:, :1]) - truth)[:, 1:] ** 2
        own = parts[name].dynamics
        curve = (own.values[~own.validate].mean(axis=0) - truth)[:, 1:] ** 2
        of_tasks = [(errors[..., tests].mean(), curve[..., tests].mean()) for tests in (slice(0, 3), slice(3, 5))]
        found = judge(group, folder, setting)
        key = ("gradient_response", name, "", 0)
        mse.append(found[*key, "all_steps_mse"]["value"])
        assert mse[-1] == pytest.approx(np.mean([a for a, _ in of_tasks]), rel=1e-9)
        assert found[*key, "skill"]["value"] == pytest.approx(np.mean([1 - a / b for a, b in of_tasks]), rel=1e-9)
    assert len(set(mse)) == 3


def test_each_schedule_and_the_mean_over_them_is_judged_by_every_method(pooled: tuple[dict[str, Any], Path]) -> None:
    seen, unseen = (judge(*pooled, setting) for setting in ("schedule_seen", "schedule_unseen"))
    methods = {"persistence", "mean_curve", "time_curve", "gradient_response"}
    schedules = {"own", "short", "fast", "average"}
    assert {key[:2] for key in seen} == {(method, schedule) for method in methods for schedule in schedules}
    # Of a schedule that no fit has seen, the mean curve is not known.
    assert {key[0] for key in unseen} == methods - {"mean_curve"}
    for method in ("time_curve", "gradient_response"):
        of = [unseen[method, name, "", 0, "skill"]["value"] for name in ("own", "short", "fast", "average")]
        assert of[3] == pytest.approx(np.mean(of[:3]))
    assert seen["mean_curve", "fast", "", 0, "skill"]["value"] == pytest.approx(0, abs=1e-9)
