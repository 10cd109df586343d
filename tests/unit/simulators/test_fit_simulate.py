import logging
import re
from pathlib import Path

import numpy as np
import pytest
from gptfluence.attribution.effects_file import write_effects
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance
from gptfluence.simulators.base import Curricula, Part
from gptfluence.simulators.data import load_group
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.fit import fit_simulator
from gptfluence.simulators.registry import make_pooled
from gptfluence.simulators.rollout import bounds
from gptfluence.simulators.simulate import simulate_runs
from gptfluence.words import HALF_WIDTHS
from synthetic import METHOD_SETTINGS, chosen_runs, write_group


def fit_all(spec: dict, folder: Path) -> dict[str, str]:
    simulators = {}
    for method, settings in METHOD_SETTINGS.items():
        path = folder / f"{method}.safetensors"
        fit = chosen_runs(spec, "fit", "validate") | {"method": method, "settings": settings}
        fit_simulator(fit, path)
        simulators[method] = str(path)
    return simulators


def test_runs_of_several_schedules_are_one_fit(tmp_path: Path) -> None:
    spec = write_group(tmp_path, "loss")
    fitting = chosen_runs(spec, "fit", "validate")
    slow = [run | {"learning_rate": run["learning_rate"] / 2} for run in fitting["runs"]]
    settings = {key: value for key, value in METHOD_SETTINGS["gradient_response_schedules"].items() if key != "rates"}
    settings |= {"kind": "gradient_response"}
    job = fitting | {"method": "gradient_response_schedules", "settings": settings, "schedules": {"slow": slow}}
    fit_simulator(job, tmp_path / "s.safetensors")
    simulator, provenance = load_simulator(tmp_path / "s.safetensors")
    assert simulator.kind == "pooled_response" and provenance["schedules"] == ["slow"]
    whole = load_group(fitting)
    pooled = make_pooled("pooled", settings, whole.curricula.rates[0])
    halved = Curricula(whole.curricula.examples, whole.curricula.rates / 2)
    pooled.fit_parts([Part(whole.dynamics, whole.curricula), Part(whole.dynamics, halved)], whole.features)
    first = whole.dynamics.values[:, :1]
    np.testing.assert_array_equal(simulator.simulate(halved, first), pooled.simulate(halved, first))


@pytest.mark.parametrize("metric", ["loss", "bleu"])
def test_from_shards_to_simulations(metric: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gptfluence")
    spec = write_group(tmp_path, metric)
    paths = fit_all(spec, tmp_path)
    assert f"g {metric} simfluence: strength" in caplog.text and "validation MSE" in caplog.text
    _, provenance = load_simulator(paths["gptfluence"])
    assert provenance["runs"]["g-03"] == {"split": "validate", "hash": "hash3"}

    simulated = chosen_runs(spec, "held_out", "unseen") | {"simulators": paths}
    # A simulator needs none of the files it was fitted on.
    for run in chosen_runs(spec, "fit", "validate")["runs"]:
        Path(run["shard"]).unlink()
    Path(spec["features"]).unlink()
    simulate_runs(simulated, tmp_path / "s.parquet")
    table = read_parquet(tmp_path / "s.parquet")
    names = ["method", "run_id", "task", "example", "metric", "step", "value", *HALF_WIDTHS]
    assert table.column_names == names
    types = [str(table.schema.field(n).type) for n in ("example", "step", "value", HALF_WIDTHS[0])]
    assert types == ["int32", "int32", "float", "float"]

    data = load_group(simulated | {"features": None})
    rows = table.to_pylist()
    truth = {(r["run_id"], r["task"], r["example"], r["step"]): r["value"] for r in rows if r["method"] == "measured"}
    assert len(truth) == 2 * 5 * 9
    for row in read_parquet(simulated["runs"][0]["shard"]).to_pylist():
        assert truth["g-04", row["task"], row["example"], row["step"]] == row[metric]
    for method, path in paths.items():
        simulator, _ = load_simulator(path)
        mine = [r for r in rows if r["method"] == method]
        assert min(r["step"] for r in mine) == simulator.start
        values = simulator.simulate(data.curricula, data.dynamics.values[:, : simulator.start])
        expected = values[:, simulator.start :].swapaxes(1, 2).astype(np.float32).ravel()
        np.testing.assert_array_equal(np.array([r["value"] for r in mine], np.float32), expected)
        assert [r["step"] for r in mine[:2]] == [simulator.start, simulator.start + 1]
        widths = simulator.half_widths(data.curricula)
        assert (widths is not None) == method.startswith("gradient_response")
        for level, name in enumerate(HALF_WIDTHS):
            found = [r[name] for r in mine]
            if widths is None:
                assert set(found) == {None}
            else:
                expected = widths[level, :, simulator.start :].swapaxes(1, 2).astype(np.float32).ravel()
                np.testing.assert_array_equal(np.array(found, np.float32), expected)
    assert read_provenance(tmp_path / "s.parquet")["methods"] == list(paths)
    assert {r["metric"] for r in rows} == {metric}

    again = tmp_path / "again.parquet"
    simulate_runs(simulated, again)
    assert again.read_bytes() == (tmp_path / "s.parquet").read_bytes()


def write_replays(spec: dict, folder: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Two files of replays, a run each."""
    rng = np.random.default_rng(3)
    paths, effects = [], {}
    for run in spec["runs"]:
        effects[run["run_id"]] = rng.normal(size=(8, 5)).astype(np.float32)
        paths.append(str(folder / f"replay-{run['run_id']}.parquet"))
        write_effects(paths[-1], {("tracin", run["run_id"]): effects[run["run_id"]]}, {})
    return paths, effects


def test_what_replays_say_of_the_steps_adds_up_from_the_first_value(tmp_path: Path) -> None:
    spec = chosen_runs(write_group(tmp_path), "held_out", "unseen")
    paths, effects = write_replays(spec, tmp_path)
    simulate_runs(spec | {"simulators": {}, "replays": paths}, tmp_path / "s.parquet")
    rows = read_parquet(tmp_path / "s.parquet").to_pylist()
    values = {m: {(r["run_id"], r["task"], r["example"], r["step"]): r["value"] for r in rows if r["method"] == m}
              for m in ("measured", "tracin")}  # fmt: skip
    assert min(step for *_, step in values["tracin"]) == 1 and len(values["tracin"]) == 2 * 5 * 8
    for (run, task, example, step), value in values["tracin"].items():
        test = spec["test_tasks"].index(task) * spec["test_sizes"][spec["test_tasks"][0]] + example
        expected = values["measured"][run, task, example, 0] + effects[run][:step, test].sum()
        assert value == pytest.approx(expected, rel=1e-5)


def test_a_run_without_a_replay_is_named(tmp_path: Path) -> None:
    spec = chosen_runs(write_group(tmp_path), "held_out", "unseen")
    paths, _ = write_replays(spec, tmp_path)
    with pytest.raises(UserError, match=f"no tracin of run {spec['runs'][1]['run_id']}"):
        simulate_runs(spec | {"simulators": {}, "replays": paths[:1]}, tmp_path / "s.parquet")


def test_published_forms_say_how_many_roll_outs_were_confined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = write_group(tmp_path)
    settings = METHOD_SETTINGS["simfluence"] | {"aggregation": "sum", "shrink_to": "zero", "strengths": [1e-9]}
    path = tmp_path / "s.safetensors"
    fit_simulator(chosen_runs(spec, "fit", "validate") | {"method": "mine", "settings": settings}, path)
    found = re.search(r"g loss mine, validation: (\d+) of 5 roll-outs went farther", caplog.text)
    assert found and int(found[1]) > 0
    caplog.clear()
    others = chosen_runs(spec, "held_out", "unseen") | {"simulators": {"mine": str(path)}}
    simulate_runs(others, tmp_path / "simulations.parquet")
    simulator, provenance = load_simulator(path)
    data = load_group(others | {"features": None})
    simulated = simulator.simulate(data.curricula, data.dynamics.values[:, : simulator.start])
    low, high = bounds(simulator.extent, data.dynamics.values[:, : simulator.start])
    confined = ((simulated == low[:, None]) | (simulated == high[:, None])).any(axis=1).sum()
    assert confined > 0 and f"g loss mine: {confined} of 10 roll-outs went farther" in caplog.text
    assert np.isfinite(simulated).all() and np.isfinite(provenance["validation_mse"])


def test_held_out_runs_cannot_change_a_fit(tmp_path: Path) -> None:
    """Fitted again after they are gone, every method has the same bytes."""
    spec = write_group(tmp_path)
    fits = []
    for _ in range(2):
        fits.append({name: Path(path).read_bytes() for name, path in fit_all(spec, tmp_path).items()})
        for run in chosen_runs(spec, "held_out", "unseen")["runs"]:
            Path(run["shard"]).unlink(missing_ok=True)
    assert fits[0] == fits[1]


def test_a_fit_needs_fitting_and_validation_runs(tmp_path: Path) -> None:
    spec = write_group(tmp_path) | {"method": "persistence", "settings": METHOD_SETTINGS["persistence"]}
    for splits in (("fit",), ("fit", "validate", "held_out")):
        with pytest.raises(UserError, match="needs runs to fit and runs to validate"):
            fit_simulator(chosen_runs(spec, *splits), tmp_path / "s.safetensors")


def test_simulator_of_a_run_to_be_simulated_is_refused(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    simulators = fit_all(spec, tmp_path)
    with pytest.raises(UserError, match=r"safetensors: was fitted on runs that are to be simulated \(hash3\)"):
        simulate_runs(chosen_runs(spec, "validate", "held_out") | {"simulators": simulators}, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
