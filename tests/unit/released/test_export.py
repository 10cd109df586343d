"""What is published can be read: by `datasets`, and, in the released layout, by the import again."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gptfluence.cli import main
from gptfluence.curricula.draw import draw_curricula
from gptfluence.design import Design, make_design
from gptfluence.dynamics.train import dynamics_table
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet
from gptfluence.params import load_params
from gptfluence.released.export import export
from gptfluence.released.importing import import_release
from gptfluence.simulators.data import load_group
from gptfluence.tasks.prepare import prepare_task
from released import OFFSETS, make_release, scale


@pytest.fixture
def design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_params: dict[str, Any]) -> Design:
    """A tiny plan whose runs hold random numbers; the GPTs are not trained."""
    monkeypatch.chdir(tmp_path)
    plan = tiny_params["scales"]["tiny"]
    plan["scenarios"]["instruction_tuning"]["runs"]["unseen"] = 1
    plan["scenarios"]["fine_tuning"] |= {"train_tasks": ["rte", "webnlg"], "test_tasks": ["rte", "webnlg"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    design = make_design(load_params(tiny_params, Path("params.yaml")))
    for task, spec in design.tasks.items():
        prepare_task(spec, Path(design.task_file(task)))
    draw_curricula(design.curricula_spec(), Path("data/curricula"))
    for number, run in enumerate(design.runs.values()):
        generator = np.random.default_rng(number)
        tests = [(task, i) for task in run.test_tasks for i in range(4)]
        losses = generator.random((run.steps + 1, len(tests)), np.float32)
        texts = generator.random((2, *losses.shape), np.float32)
        texts[:, :, [task == "rte" for task, _ in tests]] = np.nan
        made_by = {"hash": run.hash, "code": "abc", "versions": {"torch": "2"}, "model": design.models[run.model]}
        write_parquet(run.shard, dynamics_table(tests, range(len(losses)), losses, texts), made_by)
    return design


def test_a_folder_that_datasets_reads(design: Design, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert export(design, "huggingface", tmp_path / "out") == list(design.runs)
    folder = str(tmp_path / "out")
    assert datasets.get_dataset_config_names(folder) == ["dynamics", "curricula", "runs", "examples"]
    dynamics = datasets.load_dataset(folder, split="train")  # the default
    assert dynamics.column_names == ["run_id", "step", "task", "example", "loss", "bleu", "rouge_l"]
    shards = {run.run_id: read_parquet(run.shard) for run in design.runs.values()}
    assert len(dynamics) == sum(map(len, shards.values()))
    some = design.runs["fine_tuning-tiny-webnlg-02"]
    own = dynamics.filter(lambda row: row["run_id"] == some.run_id)
    assert [{k: v for k, v in row.items() if k != "run_id"} for row in own] == shards[some.run_id].to_pylist()
    curricula = datasets.load_dataset(folder, "curricula", split="train")
    assert len(curricula) == sum(run.steps * run.batch for run in design.runs.values())
    runs = {row["run_id"]: row for row in datasets.load_dataset(folder, "runs", split="train")}
    assert runs[some.run_id]["steps"] == some.steps and runs[some.run_id]["first_step"] == 0
    assert json.loads(runs[some.run_id]["provenance"])["versions"] == {"torch": "2"}
    examples = datasets.load_dataset(folder, "examples", split="train")
    assert {row["task"] for row in examples} == {"rte", "webnlg", "cnn_dailymail"}
    text = (tmp_path / "out/README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "mit" and len(front["configs"]) == 4
    assert f"## dynamics: {len(dynamics):,} rows" in text and "| fine_tuning | tiny | held_out | 4 |" in text


@pytest.mark.parametrize("gone", ["all_*_trajectory.out", "*_checkpoint-*.out"])
def test_what_is_exported_as_released_is_imported_again(design: Design, tmp_path: Path, gone: str) -> None:
    """Either layout, without the other one, holds the same numbers, but for step 0."""
    export(design, "released", tmp_path / "out")
    settings = json.loads((tmp_path / "out/export.json").read_text())
    assert len(settings["runs"]) == 5 * 3 + 1 * 2 + 1 and settings["test_offsets"] == {"rte": 0, "webnlg": 4}
    for path in (tmp_path / "out").rglob(gone):
        path.unlink()
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["scale"] = "again"
    raw["scales"]["again"] = scale() | {"test_offsets": settings["test_offsets"]}
    import_release(tmp_path / "out", Path("data/own/gptdynamics"), settings["test_offsets"])
    again = make_design(load_params(raw, Path("params.yaml")))
    _make(again)
    assert len(again.runs) == len(settings["runs"])
    assert list(again.groups) == ["fine_tuning-tiny-rte", "fine_tuning-tiny-webnlg", "instruction_tuning-tiny-mixture"]
    for name, group in again.groups.items():
        texts = _train_texts(design, name), _train_texts(again, name)
        for metric, splits in product(group.metrics, (("fit", "validate"), ("held_out",), ("unseen",))):
            one, other = (load_group(_spec(d, name, metric, splits)) for d in (design, again))
            assert one.tasks == other.tasks and len(one.runs) == len(other.runs)
            np.testing.assert_array_equal(one.dynamics.values[:, 1:], other.dynamics.values)
            np.testing.assert_allclose(one.curricula.rates[:, 1:], other.curricula.rates)
            # Training examples are numbered in two ways, and are the same texts.
            rows = one.curricula.examples[:, 1:].ravel(), other.curricula.examples.ravel()
            assert [texts[0][row] for row in rows[0]] == [texts[1][row] for row in rows[1]]


def _spec(design: Design, group: str, metric: str, splits: tuple[str, ...]) -> dict[str, Any]:
    return design._group_spec(group, metric, splits) | {"features": None}


def _make(design: Design) -> None:
    from gptfluence.released.stages import import_curricula, import_runs, import_task

    for task, spec in design.tasks.items():
        import_task(spec, Path(design.task_file(task)))
    import_curricula(design.curricula_spec(), Path("data/curricula"))
    for gang in design.gangs.values():
        import_runs(design.gang_spec(gang.gang), Path(gang.manifest))


def _train_texts(design: Design, group: str) -> list[str]:
    found = []
    for task in design.groups[group].train_tasks:
        form = design.groups[group].runs[0].format
        rows = [
            r for r in read_parquet(design.task_file(task)).to_pylist() if r["format"] == form and r["part"] != "test"
        ]
        found += [f"{row['prompt']} {row['target']}" for row in sorted(rows, key=lambda row: row["example"])]
    return found


def test_a_release_that_was_imported_is_exported_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw_params: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_release(tmp_path / "r")
    first = import_release(tmp_path / "r", Path("data/own/gptdynamics"), OFFSETS)
    raw_params["scale"], raw_params["scales"]["released"] = "released", scale()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw_params))
    _make(make_design(load_params(raw_params, Path("params.yaml"))))
    main(["export", "--format", "released", "--output", "out"])
    again = import_release(tmp_path / "out", tmp_path / "again", OFFSETS)

    def seen(report: dict[str, Any]) -> dict[tuple[Any, ...], str]:
        runs = report["runs"].values()
        return {(r["task"], r["model"], r["seed"]): r["digest"] for r in runs if not r["unseen"]}

    assert seen(first) == seen(again) and len(seen(again)) == 15
    assert {n: f["examples"] for n, f in again["samples"].items()} == {
        "flan test": 7, "flan train": 48, "rte test": 4, "rte train": 24, "webnlg test": 3, "webnlg train": 12,
    }  # fmt: skip
    main(["export", "--format", "huggingface", "--output", "hf"])
    assert "no step 0" in (tmp_path / "hf/README.md").read_text()


def test_nothing_is_published_by_halves(design: Design, tmp_path: Path) -> None:
    run = next(iter(design.runs.values()))
    write_parquet(run.shard, read_parquet(run.shard), {"hash": "other"})
    with pytest.raises(UserError, match="other settings"):
        export(design, "huggingface", tmp_path / "out")
    Path(run.shard).unlink()
    with pytest.raises(UserError, match=r"1 of .* files are missing"):
        export(design, "released", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(UserError, match="is there already"):
        export(design, "released", tmp_path / "out")
