"""A scale of released runs: its plan, and what its stages hold, down to the arrays that simulators read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gptfluence.cli import main
from gptfluence.design import Design, make_design
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_json
from gptfluence.params import load_params
from gptfluence.released.importing import import_release
from gptfluence.released.stages import import_curricula
from gptfluence.scores.measures import whole_steps
from gptfluence.simulators.data import load_group
from released import MIXED, OFFSETS, POOL, make_release, make_run, scale, write_preprocessed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def design_of(raw: dict[str, Any], **changed: Any) -> Design:
    raw["scale"], raw["scales"]["released"] = "released", scale() | changed
    return make_design(load_params(raw, Path("params.yaml")))


def make(design: Design) -> None:
    """Do the jobs of the first three stages, as the rules call them."""
    for task, spec in design.tasks.items():
        _job("prepare_task", spec, design.task_file(task))
    _job("draw_curricula", design.curricula_spec(), "data/curricula")
    for gang in design.gangs.values():
        _job("train_runs", design.gang_spec(gang.gang), gang.manifest)


def _job(command: str, spec: dict[str, Any], output: str) -> None:
    write_json("spec.json", spec)
    main([command, "--spec", "spec.json", "--output", output])


@pytest.mark.parametrize("layout", ["raw", "preprocessed"])
def test_simulators_are_given_what_was_released(folder: Path, raw_params: dict[str, Any], layout: str) -> None:
    runs = make_release(folder / "r", layout)
    import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    design = design_of(raw_params)
    make(design)
    for stage in ("tasks", "curricula", "dynamics"):
        assert design.stages[stage] and all(Path(file).is_file() for file in design.stages[stage])
    group = "instruction_tuning-pythia-410m-mixture"
    webnlg = "fine_tuning-pythia-410m-webnlg"
    for name, task, metric, own in ((group, "flan", "loss", "loss"), (webnlg, "webnlg", "rouge_l", "rougeL")):
        data = load_group(design.fit_spec(name, metric, "mean_curve"))
        chosen = [run for run in runs if run.task == task and run.seed in (1, 2, 3)]
        tests = [t for t in data.tasks if (t, own) in chosen[0].values]
        expected = np.stack([np.concatenate([run.values[t, own] for t in tests], axis=1) for run in chosen])
        assert data.tasks == tuple(tests) and data.measured is None
        np.testing.assert_array_equal(data.dynamics.values, expected.astype(np.float32).astype(float))
        # The first value is after the first update, so the second batch is the first that leads anywhere.
        assert data.curricula.examples.tolist() == [run.batches[1:] for run in chosen]
        assert data.dynamics.validate.tolist() == [False, False, True]
        np.testing.assert_allclose(data.curricula.rates[0], 5e-7 * (1 - np.arange(1, 6) / 6))
    unseen = load_group(design.simulate_spec("fine_tuning-pythia-410m-rte", "loss") | {"features": None})
    assert [run[-9:] for run in unseen.runs[2:]] == ["unseen-01", "unseen-02"]
    moved = [(np.array(run.batches[1:]) + POOL).tolist() for run in runs if run.unseen]
    assert unseen.curricula.examples[2:].tolist() == moved


def test_gaps_are_null_in_shards_filled_for_fits_and_not_judged(folder: Path, raw_params: dict[str, Any]) -> None:
    make_release(folder / "r", "raw")
    gone = {2: [3, 4], 10: [2]}  # of a fitting and of a held-out run
    for number, steps in gone.items():
        for step in steps:
            next((folder / "r/runs").glob(f"output_rte_*seed-{number}/loss_rte/*-{step}.out")).unlink()
    import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    design = design_of(raw_params)
    make(design)
    group = "fine_tuning-pythia-410m-rte"
    shard = read_parquet(design.runs[f"{group}-02"].shard)
    assert [row["step"] for row in shard.to_pylist() if row["loss"] is None and row["example"] == 0] == [3, 4]
    assert shard["step"][0].as_py() == 1
    assert read_provenance(design.runs[f"{group}-02"].shard)["released"] == "data/own/gptdynamics"
    fitted = load_group(design.fit_spec(group, "loss", "mean_curve"))
    values = fitted.dynamics.values[1]
    assert fitted.measured is not None
    assert fitted.measured[1].all(axis=1).tolist() == [True, True, False, False, True, True]
    np.testing.assert_allclose(values[2], values[1] + (values[4] - values[1]) / 3)  # a straight line
    np.testing.assert_allclose(values[3], values[1] + 2 * (values[4] - values[1]) / 3)
    assert np.isnan(fitted.truth[1, 2:4]).all() and np.isfinite(np.delete(fitted.truth[1], (2, 3), 0)).all()
    judged = load_group(design.simulate_spec(group, "loss") | {"features": None})
    assert whole_steps(judged.truth).tolist() == [True, False, True, True, True, True]


def test_only_released_runs_may_have_gaps(folder: Path, raw_params: dict[str, Any]) -> None:
    make_release(folder / "r")
    import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    design = design_of(raw_params)
    make(design)
    spec = design.fit_spec("fine_tuning-pythia-410m-rte", "loss", "mean_curve")
    path = spec["runs"][0]["shard"]
    table, provenance = read_parquet(path), read_provenance(path)
    from gptfluence.io import write_parquet

    for step, text in ((3, "loss is nan at step 6"), (None, "incomplete")):
        own = {key: value for key, value in provenance.items() if key != "released"} if step is None else provenance
        last = table.to_pylist()
        last[-1]["loss"] = None
        write_parquet(path, table if step is None else type(table).from_pylist(last, table.schema), own)
        with pytest.raises(UserError, match=text):
            load_group(spec)


def test_methods_that_need_a_gpt_are_left_out_and_said_so(folder: Path, raw_params: dict[str, Any]) -> None:
    make_release(folder / "r")
    import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    design = design_of(raw_params)
    assert list(design.methods) == [
        "persistence", "global_ar1", "mean_curve", "simfluence", "simfluence_additive", "simfluence_multiplicative",
        "gptfluence", "gptfluence_mlp",
    ]  # fmt: skip
    assert design.stages["attribution"] == design.stages["mislabels"] == design.stages["choices"] == []
    assert all("/text." in file for file in design.stages["features"])
    spec = design.refit_spec("fine_tuning-pythia-410m-rte", "loss")
    assert "gpt_features" not in spec["methods"]["gptfluence"]["variants"]
    assert "order_10" in spec["methods"]["gptfluence"]["variants"] and list(spec["unseen_tests"]) == [
        *("persistence", "global_ar1"),
        "gptfluence",
    ]
    (note,) = design.table_spec("table_1")["notes"]
    assert "gptfluence_gradients, gradient_response, replays" in note and "GPTDynamics" in note
    assert "notes" not in make_design(load_params(raw_params | {"scale": "nano"}, Path("params.yaml"))).table_spec(
        "table_1"
    )


def test_simulators_of_the_mixture_are_judged_on_runs_of_single_tasks(folder: Path, raw_params: dict[str, Any]) -> None:
    make_release(folder / "r")
    single = make_run("webnlg", 1, unseen=True)
    own = [list(batch) for batch in single.batches]
    single.batches = [[MIXED["webnlg"][1] + i for i in batch] for batch in single.batches]
    write_preprocessed(folder / "r", single, "flan_ood", numbered_through=True)
    report = import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    design = design_of(raw_params)
    mixture = "instruction_tuning-pythia-410m-mixture"
    others = {other["task"]: other for other in design.refit_spec(mixture, "loss")["elsewhere"]["groups"]}
    assert {task: other["rows"] for task, other in others.items()} == {
        "rte": [[0, 23, 12]], "webnlg": [[0, 11, 0], [12, 23, 36]]
    }  # fmt: skip
    assert {other["train_size"] for other in others.values()} == {24}
    assert design.refit_spec(mixture, "loss")["train_size"] == 48  # with the unseen ones of both tasks
    for other in others.values():
        assert {run["split"] for run in other["runs"]} == {"fit", "held_out", "unseen"}
    # The run with the mixture's ids: its examples and its tests are those of the task.
    (run,) = (run for run in design.runs.values() if run.group.endswith("webnlg") and run.split == "unseen")
    import_curricula({"runs": [run.row()], "released": "data/own/gptdynamics"}, folder)
    table = read_parquet(folder / Path(run.curriculum).name)
    assert table["example"].to_numpy().reshape(-1, 2).tolist() == [[12 + i for i in batch] for batch in own]
    found = report["runs"][run.stem]
    assert found["tests"]["webnlg"]["ids"] == 3 and found["tests"]["webnlg"]["whole"]
    # Without a place in the mixture, or without one of all that is drawn from, it is not judged there.
    path = folder / "data/own/gptdynamics/report.json"
    for stretches, splits in (([], None), ([[0, 11, 0], [13, 23, 37]], {"fit", "held_out"})):
        write_json(path, report | {"mixed": report["mixed"] | {"webnlg": stretches, "rte": []}})
        others = design_of(raw_params).refit_spec(mixture, "loss")["elsewhere"]["groups"]
        assert [{run["split"] for run in other["runs"]} for other in others] == ([splits] if splits else [])


def test_an_import_of_an_earlier_version_is_to_be_made_again(folder: Path, raw_params: dict[str, Any]) -> None:
    make_release(folder / "r")
    report = import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    del report["mixed"]
    write_json(folder / "data/own/gptdynamics/report.json", report)
    with pytest.raises(UserError, match=r"earlier version's. Run gptfluence import again"):
        design_of(raw_params)


def test_names_depend_on_what_files_hold_and_not_on_where_they_stand(folder: Path, raw_params: dict[str, Any]) -> None:
    make_release(folder / "r")
    import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    import_release(folder / "r", Path("elsewhere"), OFFSETS)
    one, other = design_of(raw_params), design_of(raw_params, folder="elsewhere")
    assert one.stages == other.stages
    moved = design_of(raw_params, unseen_offsets={"rte": 5})
    differing = {name for name, run in one.runs.items() if moved.runs[name].hash != run.hash}
    assert {one.runs[name].split for name in differing} == {"unseen"} and len(differing) == 2


def test_what_is_not_imported_is_said_to_be_so(folder: Path, raw_params: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"not imported yet. Run: gptfluence import PATH"):
        design_of(raw_params)
    make_release(folder / "r")
    import_release(folder / "r", Path("data/own/gptdynamics"), OFFSETS)
    with pytest.raises(UserError, match="other test_offsets"):
        design_of(raw_params, test_offsets={"rte": 0})
    with pytest.raises(UserError, match="no group of runs can be simulated:\n"):
        design_of(raw_params, held_out=5)


def test_the_command_imports_and_says_what_it_found(
    folder: Path, raw_params: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make_release(folder / "r")
    raw_params["scales"]["released"] = scale()
    (folder / "params.yaml").write_text(yaml.safe_dump(raw_params))
    main(["import", "r", "--scale", "released"])
    told = capsys.readouterr().out
    assert (
        "r: 0.1 MB, 17 runs" in told and "fine_tuning-pythia-410m-rte: 2 fit, 1 validate, 2 held_out, 2 unseen" in told
    )
    assert "training ids moved by 12" in told and "pythia-410m boolq: seeds 1-32" in told
    with pytest.raises(SystemExit):
        main(["import", "r", "--scale", "nano"])
    assert "has no source: released" in capsys.readouterr().err
    main(["status", "--scale", "released"])
    assert "17" in capsys.readouterr().out
