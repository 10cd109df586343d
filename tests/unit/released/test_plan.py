"""Which released runs serve for what."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gptfluence.params import ReleasedScale
from gptfluence.released.importing import import_release
from gptfluence.released.plan import Plan, make_plan
from gptfluence.released.report import missing_runs
from released import OFFSETS, make_release, make_run, scale, write_preprocessed, write_raw, write_samples

METRICS = {"rte": ("loss",), "webnlg": ("loss", "bleu", "rouge_l")}


def plan_of(report: dict[str, Any], **changed: Any) -> Plan:
    return make_plan(report, ReleasedScale.model_validate(scale() | changed), METRICS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def _report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("release")
    make_release(root / "r")
    return import_release(root / "r", root / "i", OFFSETS)


@pytest.fixture
def report(_report: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(_report)


def numbers(plan: Plan, group: str) -> dict[str, list[int]]:
    members = next(g for g in plan.groups if g.group == group).members
    return {split: [m.number for m in members if m.split == split] for split in dict.fromkeys(m.split for m in members)}


RTE = "fine_tuning-pythia-410m-rte"


def test_runs_are_split_in_the_order_of_their_seeds(report: dict[str, Any]) -> None:
    plan = plan_of(report)
    assert [g.group for g in plan.groups] == [
        RTE, "fine_tuning-pythia-410m-webnlg", "instruction_tuning-pythia-410m-mixture"
    ]  # fmt: skip
    # 10 is behind 3, not behind 1; runs on unseen data count apart.
    assert numbers(plan, RTE) == {"fit": [1, 2], "validate": [3], "held_out": [10, 11], "unseen": [1, 2]}
    assert not plan.left_out
    webnlg = plan.groups[1]
    assert webnlg.metrics == ("loss", "bleu", "rouge_l") and webnlg.tests == {"webnlg": 3}
    assert (webnlg.first, webnlg.last, webnlg.batch, webnlg.pool) == (1, 6, 2, 12)


def test_named_seeds_are_held_out_wherever_they_stand(report: dict[str, Any]) -> None:
    plan = plan_of(report, held_out_seeds={"rte": [2, 99], "mixture": [77]})
    assert numbers(plan, RTE) == {"fit": [1, 3, 10], "held_out": [2], "validate": [11], "unseen": [1, 2]}
    assert numbers(plan, "instruction_tuning-pythia-410m-mixture")["held_out"] == [
        10,
        11,
    ]  # none of those named is there


@pytest.mark.parametrize(("ids", "first", "offset"), [(0, None, 12), (12, None, 0), (0, 5, 5), (5, 5, 0)])
def test_ids_of_unseen_examples_are_moved_behind_the_pool_unless_they_are_there(
    report: dict[str, Any], ids: int, first: int | None, offset: int
) -> None:
    for run in report["runs"].values():
        if run["unseen"]:
            run["batches"] |= {"least": ids, "greatest": ids + 11}
    plan = plan_of(report, **({"unseen_offsets": {"rte": first}} if first is not None else {}))
    assert {m.offset for m in plan.groups[0].members if m.split == "unseen"} == {offset}
    assert {m.offset for m in plan.groups[0].members if m.split != "unseen"} == {0}


@pytest.mark.parametrize(
    ("task", "ids", "offset"),
    # The mixture has the unseen examples of RTE from 24 on, those of WebNLG from 36 on: 12 behind the pool each.
    [("rte", 24, -12), ("rte", 36, -24), ("rte", 0, 12), ("rte", 12, 0), ("webnlg", 36, -24), ("webnlg", 24, -12)],
)
def test_ids_of_single_tasks_may_be_those_of_the_mixture(
    report: dict[str, Any], task: str, ids: int, offset: int
) -> None:
    run = copy.deepcopy(seed(report, task, 1))
    run |= {"folder": "runs/flan_ood/x", "seed": 3, "unseen": True, "for_mixture": True}
    run["batches"] |= {"least": ids, "greatest": ids + 11}
    report["runs"]["single"] = run
    plan = plan_of(report)
    group = next(g for g in plan.groups if g.unit == task)
    (member,) = (m for m in group.members if m.stem == "single")
    assert (member.split, member.offset) == ("unseen", offset)
    assert not plan.left_out


@pytest.mark.parametrize("stretches", [[], [[0, 11, 12], [13, 23, 25]]])
def test_a_run_whose_ids_are_of_no_known_example_is_left_out_alone(
    report: dict[str, Any], stretches: list[list[int]]
) -> None:
    run = copy.deepcopy(seed(report, "rte", 1))
    run |= {"folder": "runs/flan_ood/x", "seed": 3, "unseen": True, "for_mixture": True}
    run["batches"] |= {"least": 60, "greatest": 71}
    report["runs"]["single"] = run
    report["mixed"]["rte"] = stretches
    plan = plan_of(report)
    assert plan.left_out == {"runs/flan_ood/x": "its training ids, 60 to 71, are of no known example"}
    assert numbers(plan, RTE) == {"fit": [1, 2], "validate": [3], "held_out": [10, 11], "unseen": [1, 2]}


def test_a_run_that_is_there_with_the_ids_of_the_mixture_too_is_taken_once(report: dict[str, Any]) -> None:
    stem, run = next((stem, run) for stem, run in report["runs"].items() if run["unseen"])
    report["runs"]["a"] = run | {"folder": "runs/flan_ood/x", "for_mixture": True, "batches": run["batches"]}
    plan = plan_of(report)
    assert stem in {m.stem for m in plan.groups[0].members}
    assert plan.left_out == {"runs/flan_ood/x": f"the same run as {run['folder']}"}


def seed(report: dict[str, Any], task: str, number: int) -> dict[str, Any]:
    found = (
        run for run in report["runs"].values() if (run["task"], run["seed"], run["unseen"]) == (task, number, False)
    )
    return next(found)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda run: run.update(last=5), "last step 5, the others 6"),
        (lambda run: run.update(first=2), "first step 2, the others 1"),
        (lambda run: run["tests"]["webnlg"].update(ids=2), "tests"),
        (lambda run: run["tests"]["webnlg"].update(whole=False), "do not count from 0"),
        (lambda run: run["tests"]["webnlg"]["ends"].update(bleu=False), "bleu of webnlg is not measured throughout"),
        (lambda run: run["tests"]["webnlg"]["ends"].pop("rouge_l"), "rouge_l of webnlg"),
        (lambda run: run["batches"].update(missing=[4]), "not recorded for all of steps 1 to 6"),
        (lambda run: run["batches"].update(last=5), "not recorded for all of steps 1 to 6"),
        (lambda run: run["batches"].update(sizes=[1, 2]), "batches of different sizes"),
        (lambda run: run["batches"].update(first=None), "what it trained on is not recorded"),
        (lambda run: run.update(first=None), "nothing was measured"),
        (lambda run: run.update(kind="other"), "not simulated"),
    ],
)
def test_a_run_that_cannot_stand_beside_the_others_is_left_out_and_said_so(
    report: dict[str, Any], change: Any, why: str
) -> None:
    run = seed(report, "webnlg", 2)
    change(run)
    plan = plan_of(report)
    assert why in plan.left_out.pop(run["folder"]) and not plan.left_out
    assert numbers(plan, "fine_tuning-pythia-410m-webnlg") == {"fit": [1], "validate": [3], "held_out": [10, 11]}


def test_gaps_between_the_ends_do_not_matter(report: dict[str, Any]) -> None:
    seed(report, "webnlg", 2)["tests"]["webnlg"]["gaps"]["loss"] = 5
    assert numbers(plan_of(report), "fine_tuning-pythia-410m-webnlg")["fit"] == [1, 2]


def test_a_metric_that_most_runs_lack_costs_no_run(report: dict[str, Any]) -> None:
    for number in (1, 2, 3):
        seed(report, "webnlg", number)["tests"]["webnlg"]["ends"].pop("bleu")
    plan = plan_of(report)
    assert plan.groups[1].metrics == ("loss", "rouge_l") and not plan.left_out


def test_groups_with_too_few_runs_or_texts_are_left_out(report: dict[str, Any]) -> None:
    for number in (1, 2, 3):
        seed(report, "webnlg", number)["kind"] = "other"
    report["samples"]["rte train"]["missing"] = [3]
    report["samples"]["flan test"]["examples"] = 6
    plan = plan_of(report)
    assert plan.groups == ()
    reasons = Counter(why.split(":")[0] for name, why in plan.left_out.items() if "output" not in name)
    assert reasons == {
        "texts of training examples of rte are missing": 1, "texts of tests are missing": 1,
        "has 2 runs that can be used": 1,
    }  # fmt: skip


def test_of_a_run_that_is_there_twice_the_preprocessed_one_counts(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        write_preprocessed(tmp_path / "r", make_run("rte", number))
    write_raw(tmp_path / "r", make_run("rte", 2), "again")
    write_samples(tmp_path / "r")
    plan = plan_of(import_release(tmp_path / "r", tmp_path / "i", OFFSETS))
    assert [why.split("/")[0] for why in plan.left_out.values()] == ["the same run as runs"]
    assert numbers(plan, RTE) == {"fit": [1], "validate": [2], "held_out": [3, 4]}


def test_runs_whose_names_tell_no_seed_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, name in enumerate("cabd", start=1):
        run = make_run("rte", number)
        run.name = f"run-{name}"
        write_preprocessed(tmp_path / "r", run)
    write_samples(tmp_path / "r")
    plan = plan_of(import_release(tmp_path / "r", tmp_path / "i", OFFSETS))
    assert numbers(plan, "fine_tuning-unknown-rte") == {"fit": [1], "validate": [2], "held_out": [3, 4]}
    assert [m.stem[:5] for m in plan.groups[0].members] == ["run-a", "run-b", "run-c", "run-d"]


def test_the_shipped_scale_holds_out_the_published_test_runs(
    report: dict[str, Any], raw_params: dict[str, Any]
) -> None:
    """Seeds as published: 28-32 in fine-tuning, 5-9 on WMT16 and the mixture; one size lacks a run."""
    seeds = {"rte": [*range(1, 33)], "webnlg": [*range(1, 33)], "flan": [*range(2, 33)]}
    whole = {}
    for task, numbers_of in seeds.items():
        for number in numbers_of:
            whole[f"{task}{number}"] = seed(report, task, 1) | {"seed": number, "folder": f"{task}/{number}"}
    settings = ReleasedScale.model_validate(raw_params["scales"]["gptdynamics"])
    plan = make_plan(report | {"runs": whole}, settings, METRICS)  # type: ignore[arg-type]
    found = {group.unit: numbers(plan, group.group) for group in plan.groups}
    for unit in ("rte", "webnlg"):
        assert found[unit] == {"fit": [*range(1, 26)], "validate": [26, 27], "held_out": [*range(28, 33)]}
    mixture = found["mixture"]
    assert mixture["held_out"] == [5, 6, 7, 8, 9] and mixture["validate"] == [31, 32] and len(mixture["fit"]) == 24
    assert missing_runs({"runs": whole})["pythia-410m rte unseen"] == [1, 2, 3]
    assert "pythia-410m rte" not in missing_runs({"runs": whole})
