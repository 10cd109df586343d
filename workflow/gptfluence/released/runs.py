"""The run table of a scale of released runs: what an import found, as tasks, models, groups and runs of a plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptfluence.errors import UserError
from gptfluence.identity import code_digest
from gptfluence.io import digest, file_digest
from gptfluence.params import Params, ReleasedScale
from gptfluence.released.importing import SAMPLES
from gptfluence.released.names import MIXTURE
from gptfluence.released.plan import Member, Plan, Planned, make_plan
from gptfluence.released.report import read_report
from gptfluence.runs import Group, Run


@dataclass(frozen=True)
class ReleasedRun(Run):
    """A run that was trained elsewhere.

    Attributes:
        stem: of its files in the import.
        offset: added to its training ids.
        first_step: the first that was measured, after as many updates.
        released: its folder in the release.
    """

    stem: str = ""
    offset: int = 0
    first_step: int = 1
    released: str = ""


def plan_of(params: Params, report: dict[str, Any]) -> Plan:
    """Say which runs of a report serve for what in a scale."""
    assert isinstance(params.plan, ReleasedScale)
    tasks = {task for run in report["runs"].values() for task in run["tests"]}
    return make_plan(report, params.plan, {task: params.metrics(task) for task in tasks})


def make_released(params: Params) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], dict[str, Group]]:
    """Return the tasks, models and groups of a scale of released runs.

    Raises:
        UserError: there is no import, it was made with other offsets, or holds no group of runs.
    """
    settings = params.plan
    assert isinstance(settings, ReleasedScale)
    folder = Path(settings.folder)
    report = read_report(folder)
    if report.get("test_offsets") != settings.test_offsets:
        raise UserError(
            f"{folder}: was imported with other test_offsets than scales.{params.scale} of params.yaml has. "
            "Run gptfluence import again."
        )
    plan = plan_of(params, report)
    if not plan.groups:
        reasons = "\n  ".join(f"{name}: {why}" for name, why in list(plan.left_out.items())[:10])
        raise UserError(f"{folder}: no group of runs can be simulated:\n  {reasons}")
    tasks = _tasks(plan, settings)
    models = {planned.model: {"source": "released"} for planned in plan.groups}
    groups = {planned.group: _group(planned, tasks) for planned in plan.groups}
    return tasks, models, groups


def _tasks(plan: Plan, settings: ReleasedScale) -> dict[str, dict[str, Any]]:
    """Return what import_task needs of each task, in the place of `sources.task_spec`."""
    samples = Path(settings.folder) / SAMPLES
    if not samples.is_file():
        raise UserError(f"{samples}: missing. Run gptfluence import again.")
    content, code = file_digest(samples), code_digest("released.stages")
    names = dict.fromkeys([g.train_task for g in plan.groups] + [task for g in plan.groups for task in g.tests])
    tasks = {}
    for task in names:
        trained = [g for g in plan.groups if g.train_task == task]
        tested = [g for g in plan.groups if task in g.tests]
        mixed = any(g.train_task == MIXTURE for g in tested)
        pool = max((g.pool for g in trained), default=0)
        drawn = [m.found["batches"]["greatest"] + m.offset + 1 for g in trained for m in g.members]
        drawn += [s.to + s.last - s.first + 1 for g in trained for found in (g.placed or {}).values() for s in found]
        tasks[task] = {
            "task": task,
            "source": {"kind": "released", "digest": content},
            "released": settings.folder,
            "pool": pool,
            "unseen_pool": max([pool, *drawn]) - pool,
            "test": max((g.tests[task] for g in tested), default=0),
            "first": settings.test_offsets.get(task) if mixed else None,
            "templates": None,
            "code": code,
        }
    return tasks


def _group(planned: Planned, tasks: dict[str, dict[str, Any]]) -> Group:
    runs = tuple(_run(planned, member, tasks) for member in planned.members)
    return Group(planned.group, planned.scenario, planned.model, (planned.train_task,), tuple(planned.tests),
                 planned.metrics, runs, planned.tests, planned.placed)  # fmt: skip


def _run(planned: Planned, member: Member, tasks: dict[str, dict[str, Any]]) -> Run:
    unseen, found = member.split == "unseen", member.found
    task = tasks[planned.train_task]
    draw = found["batches"]["different"]
    run = ReleasedRun(
        run_id=f"{planned.group}-{'unseen-' if unseen else ''}{member.number:02d}",
        group=planned.group,
        gang=f"{planned.group}.released",
        scenario=planned.scenario,
        model=planned.model,
        train_tasks=(planned.train_task,),
        test_tasks=tuple(planned.tests),
        pool="unseen_pool" if unseen else "pool",
        split=member.split,
        seed=member.number,
        draw_seed=member.number,
        order_seed=member.number,
        init_seed=member.number,
        generation_seed=member.number,
        draw=draw,
        first_example=task["pool"] if unseen else 0,
        pool_size=task["unseen_pool"] if unseen else task["pool"],
        batch=planned.batch,
        epochs=max(1, planned.last * planned.batch // max(draw, 1)),
        steps=planned.last,
        learning_rate=found["learning_rate"] or 0.0,
        stem=member.stem,
        offset=member.offset,
        first_step=planned.first,
        released=found["folder"],
    )
    made_by = {"content": found["digest"], "offset": member.offset, "steps": planned.last,
               "code": code_digest("released.stages")}  # fmt: skip
    hash_ = digest(made_by | {"tests": planned.tests, "learning_rate": run.learning_rate})
    return dataclasses.replace(run, hash=hash_, curriculum_hash=digest(made_by))
