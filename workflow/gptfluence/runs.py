"""The run table: which GPTs are trained on which curricula, as a pure function of params.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gptfluence.choices.named import list_choices
from gptfluence.errors import UserError, did_you_mean
from gptfluence.identity import DYNAMICS_CODE, code_digest
from gptfluence.io import digest
from gptfluence.params import Metric, MislabelledPlan, Params, ScenarioPlan, SchedulesPlan, setting
from gptfluence.rates import Shape
from gptfluence.sources import mislabelled_task, without_paths

RANKINGS = ("gptfluence", "tracin", "loss")
"""By what labels are checked, beside random orders."""
SAMPLED: tuple[Metric, ...] = ("bleu", "rouge_l")
"""Metrics of sampled texts: part of their variance is the sampling's."""

DERIVED = {"corrected": "data/mislabels", "chosen": "data/choices"}
"""Splits of runs whose curricula are not drawn, but come after what other runs tell; and where their files stand."""

SCHEDULED = {"scheduled_fit": "fit", "scheduled_validate": "validate", "scheduled_held_out": "held_out"}
"""Splits of runs under other optimiser settings than their group's, by what they serve for where all are pooled."""


@dataclass(frozen=True)
class Run:
    """One GPT trained on one curriculum: a row of the run table."""

    run_id: str
    group: str
    gang: str
    scenario: str
    model: str
    train_tasks: tuple[str, ...]
    test_tasks: tuple[str, ...]
    pool: str  # the part of each task that is drawn from: pool | unseen_pool
    split: str  # fit | validate | held_out | unseen | repeat | subset | noisy | corrected | chosen | one of SCHEDULED
    seed: int
    draw_seed: int
    order_seed: int
    init_seed: int
    generation_seed: int
    draw: int
    first_example: int  # id of the first example of the part that is drawn from
    pool_size: int
    batch: int
    epochs: int
    steps: int
    learning_rate: float
    schedule: Shape = "linear"  # of the learning rate
    warmup: float = 0.0  # share of the steps
    scheduled: str = ""  # which of the plan's schedules; none: the scenario's own settings
    ranking: str = ""  # of corrected runs: by what the labels were checked; of chosen ones: the choice
    fraction: float = 0.0  # of corrected runs: how many of them
    hash: str = ""
    curriculum_hash: str = ""

    @property
    def folder(self) -> str:
        """Where the shard stands: what comes after other runs stands apart from them."""
        return f"{DERIVED.get(self.split, 'data')}/dynamics"

    @property
    def format(self) -> str:
        """Which prompts the run sees: `plain` ones in fine-tuning, `instruction` ones in instruction tuning."""
        return "plain" if self.scenario == "fine_tuning" else "instruction"

    @property
    def ends_alone(self) -> bool:
        """Whether it is measured before its first and after its last step alone: only how it ends is asked of it."""
        return self.split in DERIVED

    @property
    def shard(self) -> str:
        """Path of the run's shard of dynamics."""
        return f"{self.folder}/{self.run_id}.{self.hash}.parquet"

    @property
    def curriculum(self) -> str:
        """Path of the run's curriculum."""
        return f"{DERIVED.get(self.split, 'data')}/curricula/{self.run_id}.{self.curriculum_hash}.parquet"

    def row(self) -> dict[str, Any]:
        """Return the run as JSON-able values, with the paths of its files."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {key: list(value) for key, value in fields.items() if isinstance(value, tuple)}
        files = {"curriculum": self.curriculum, "shard": self.shard}
        return fields | lists | files | {"ends_alone": self.ends_alone}


@dataclass(frozen=True)
class Group:
    """Runs that one simulator is fitted on: one scenario, one model, one task or the mixture.

    Attributes:
        metrics: that are simulated; none in the group of mislabelled data, whose simulator only ranks.
        tests: how many tests of each task are measured, where that is not all of them; released runs tell.
        placed: of a mixture, which of its training examples are those of each single task: first, last, and the
            mixture's for the first, where they are not whole tasks one behind the other; released runs tell.
    """

    group: str
    scenario: str
    model: str
    train_tasks: tuple[str, ...]
    test_tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    runs: tuple[Run, ...]
    tests: dict[str, int] | None = None
    placed: Mapping[str, Sequence[tuple[int, int, int]]] | None = None

    @property
    def repeats(self) -> list[tuple[Run, Run]]:
        """Each run that is repeated, and its repeat: the first held-out ones are."""
        held_out, repeats = ([run for run in self.runs if run.split == split] for split in ("held_out", "repeat"))
        return list(zip(held_out, repeats, strict=False))


@dataclass(frozen=True)
class Gang:
    """Runs that one job trains in one process; each keeps a shard of its own."""

    gang: str
    runs: tuple[Run, ...]

    @cached_property
    def manifest(self) -> str:
        """Path of the list of the gang's shards; it stands only when all of them do."""
        return f"{self.runs[0].folder}/{self.gang}.{digest([run.hash for run in self.runs])}.json"

    @property
    def log(self) -> str:
        """Path of the job's log."""
        return f"logs/dynamics/{Path(self.manifest).stem}.log"


def make_groups(
    params: Params, tasks: dict[str, dict[str, Any]], models: dict[str, dict[str, Any]]
) -> dict[str, Group]:
    """Return the groups of the chosen scale with their runs, but for those whose curricula are `DERIVED`.

    Raises:
        UserError: `seeds` names a run that does not exist.
    """
    plan, noisy = params.plan, params.plan.mislabelled
    groups: dict[str, Group] = {}
    for scenario, settings in plan.scenarios.items():
        # Fine-tuning trains one GPT per task, instruction tuning one on the mixture of all.
        mixture = scenario == "instruction_tuning"
        units = [("mixture", settings.train_tasks)] if mixture else [(t, (t,)) for t in settings.train_tasks]
        for model in settings.models:
            for unit, train_tasks in units:
                test_tasks = (
                    settings.test_tasks if mixture else tuple(t for t in train_tasks if t in settings.test_tasks)
                )
                if not test_tasks:
                    continue
                group = f"{scenario}-{model}-{unit}"
                members = [
                    _run(params, settings, scenario, model, unit, train_tasks, test_tasks, split, number)
                    for split, number in _numbers(settings)
                ]
                members += _repeat_runs(params, members, settings.runs.repeats)
                members += _subset_runs(params, members[0], setting(settings.subsets, model, unit))
                members += _scheduled_runs(params, members[0], settings.schedules, unit)
                members = [_hashed(params, run, tasks, models[model]) for run in members]
                metrics = tuple(m for m in ("loss", *SAMPLED) if any(m in params.metrics(t) for t in test_tasks))
                groups[group] = Group(group, scenario, model, train_tasks, test_tasks, metrics, tuple(members))
    if noisy:
        members = [_hashed(params, run, tasks, models[noisy.model]) for run in _noisy_runs(params, noisy)]
        task, group = mislabelled_task(noisy), members[0].group
        groups[group] = Group(group, "fine_tuning", noisy.model, (task,), (task,), (), tuple(members))
    runs = [run.run_id for group in groups.values() for run in group.runs]
    unknown = [run_id for run_id in plan.seeds if run_id not in runs]
    if unknown:
        hints = "; ".join(f"'{name}'{did_you_mean(name, runs)}" for name in unknown)
        raise UserError(f"params.yaml: scales.{params.scale}.seeds: no such run: {hints}")
    return groups


def make_gangs(groups: dict[str, Group]) -> dict[str, Gang]:
    """Return who is trained together."""
    members: dict[str, tuple[Run, ...]] = {}
    for run in (run for group in groups.values() for run in group.runs):
        members[run.gang] = (*members.get(run.gang, ()), run)
    return {gang: Gang(gang, runs) for gang, runs in members.items()}


def corrected_runs(
    params: Params, group: Group, ranking: str, tasks: dict[str, dict[str, Any]], model: dict[str, Any]
) -> list[Run]:
    """Return the runs on corrected labels: what they train on depends on all that ranks the labels.

    Args:
        group: of mislabelled data.
        ranking: path of the orders in which labels are checked; its name holds the digest of what they depend on.
    """
    plan = params.plan.mislabelled
    assert plan is not None
    noisy = next(run for run in group.runs if run.split == "noisy")
    rankings = [(name, number) for name in RANKINGS for number in range(1, plan.retrainings + 1)]
    rankings += [(f"random_{i}", i % plan.retrainings + 1) for i in range(plan.random_seeds)]
    members: list[Run] = []
    for by, number in rankings:
        for fraction in plan.fractions:
            run = dataclasses.replace(
                noisy,
                **_seeds(params, number),
                run_id=f"{group.group}-{by}-{round(100 * fraction):02d}-{number:02d}",
                gang=_gang(params, noisy.model, f"{group.group}.corrected", len(members)),
                split="corrected",
                ranking=by,
                fraction=fraction,
            )
            made_by = {"ranking": ranking, "by": by, "fraction": fraction, "order": run.order_seed,
                       "code": code_digest("mislabels.correct")}  # fmt: skip
            run = dataclasses.replace(run, curriculum_hash=digest(made_by))
            hash_ = _run_hash(params, run, tasks, model)
            members.append(dataclasses.replace(run, hash=hash_))
    return members


def chosen_runs(
    params: Params, group: Group, choices: str, tasks: dict[str, dict[str, Any]], model: dict[str, Any]
) -> list[Run]:
    """Return the runs on chosen data: they differ from the group's first run in their curricula alone.

    Args:
        group: that data is chosen for.
        choices: path of the chosen curricula; its name holds the digest of what they depend on.
    """
    plan, first = params.plan.choices, group.runs[0]
    assert plan is not None
    members: list[Run] = []
    for choice in list_choices(plan.simulators, plan.scores, plan.splits, plan.random):
        made_by = {"choices": choices, "choice": choice.name, "code": code_digest("choices.curricula")}
        run = dataclasses.replace(
            first,
            run_id=f"{group.group}-chosen-{choice.name}",
            gang=_gang(params, first.model, f"{group.group}.chosen", len(members)),
            split="chosen",
            draw=plan.budget,
            epochs=first.steps * first.batch // plan.budget,
            ranking=choice.name,
            curriculum_hash=digest(made_by),
        )
        members.append(dataclasses.replace(run, hash=_run_hash(params, run, tasks, model)))
    return members


def _numbers(settings: ScenarioPlan) -> list[tuple[str, int]]:
    """Return (split, seed) of each run of a group: seen runs count on from 1, unseen ones anew from 1."""
    runs = settings.runs
    seen = ["fit"] * runs.fit + ["validate"] * runs.validate_ + ["held_out"] * runs.held_out
    return [(split, i + 1) for i, split in enumerate(seen)] + [("unseen", i + 1) for i in range(runs.unseen)]


def _run(
    params: Params,
    settings: ScenarioPlan,
    scenario: str,
    model: str,
    unit: str,
    train_tasks: tuple[str, ...],
    test_tasks: tuple[str, ...],
    split: str,
    number: int,
) -> Run:
    unseen = split == "unseen"
    group = f"{scenario}-{model}-{unit}"
    total = settings.runs.fit + settings.runs.validate_ + settings.runs.held_out
    position = number - 1 + (total if unseen else 0)
    epochs = setting(settings.epochs, model, unit)
    run_id = f"{group}-{'unseen-' if unseen else ''}{number:02d}"
    number = params.plan.seeds.get(run_id, number)
    return Run(
        run_id=run_id,
        group=group,
        gang=_gang(params, model, f"{group}.gang", position),
        scenario=scenario,
        model=model,
        train_tasks=train_tasks,
        test_tasks=test_tasks,
        pool="unseen_pool" if unseen else "pool",
        split=split,
        **_seeds(params, number),
        draw=settings.draw,
        first_example=params.plan.pool if unseen else 0,
        pool_size=params.plan.unseen_pool if unseen else params.plan.pool,
        batch=settings.batch,
        epochs=epochs,
        steps=epochs * settings.draw * len(train_tasks) // settings.batch,
        learning_rate=setting(settings.learning_rate, model, unit),
    )


def _gang(params: Params, model: str, name: str, position: int) -> str:
    return f"{name}-{position // params.dynamics.models[model].runs_per_job + 1:03d}"


def _seeds(params: Params, number: int) -> dict[str, int]:
    return {
        "seed": number,
        "draw_seed": params.curricula.draw_seed + number,
        "order_seed": params.curricula.order_seed + number,
        "init_seed": params.dynamics.init_seed + number,
        "generation_seed": params.dynamics.generation_seed + number,
    }


_FIRST_REPEAT = 1_000_000  # beyond the numbers of all other runs


def _repeat_runs(params: Params, runs: list[Run], repeats: int) -> list[Run]:
    """Return the first held-out runs with other seeds of what is sampled: the same weights, other texts.

    Only tests with sampled texts are measured; none is repeated in a group without them.
    """
    held_out = [run for run in runs if run.split == "held_out"][:repeats]
    sampled = tuple(task for task in runs[0].test_tasks if set(params.metrics(task)) & set(SAMPLED))
    return [
        dataclasses.replace(
            run,
            run_id=f"{run.run_id}-repeat",
            gang=_gang(params, run.model, f"{run.group}.repeats", position),
            test_tasks=sampled,
            split="repeat",
            generation_seed=run.generation_seed + _FIRST_REPEAT,
        )
        for position, run in enumerate(held_out if sampled else ())
    ]


_FIRST_SUBSET = 10_000  # beyond the numbers of all other runs


def _subset_runs(params: Params, like: Run, subsets: int) -> list[Run]:
    """Return runs on random subsets of the pool, each in several orders; only their loss is measured."""
    orders = params.attribution.orders
    runs = []
    for subset in range(1, subsets + 1):
        for order in range(1, orders + 1):
            number = _FIRST_SUBSET + (subset - 1) * orders + order
            seeds = _seeds(params, number) | {"draw_seed": params.curricula.draw_seed + _FIRST_SUBSET + subset}
            runs.append(
                dataclasses.replace(
                    like,
                    **seeds,
                    run_id=f"{like.group}-subset-{subset:03d}-{order:02d}",
                    gang=_gang(params, like.model, f"{like.group}.subsets", len(runs)),
                    split="subset",
                )
            )
    return runs


_FIRST_SCHEDULED = 10_000_000  # beyond the numbers of all other runs


def _scheduled_runs(params: Params, like: Run, plan: SchedulesPlan | None, unit: str) -> list[Run]:
    """Return runs under other optimiser settings, on curricula of their own; only their loss is measured.

    Their numbers follow from the schedule's name, so that one more schedule changes no run of the others.
    """
    if plan is None or like.model not in (plan.models or (like.model,)) or unit not in (plan.tasks or (unit,)):
        return []
    parts = {"fit": plan.runs.fit, "validate": plan.runs.validate_, "held_out": plan.runs.held_out}
    splits = [split for split, part in SCHEDULED.items() for _ in range(parts[part])]
    runs = []
    for name, settings in plan.settings.items():
        first = _FIRST_SCHEDULED + 1_000 * (int(digest(name), 16) % 1_000_000)
        batch = settings.batch or like.batch
        runs += [
            dataclasses.replace(
                like,
                **_seeds(params, first + place),
                run_id=f"{like.group}-{name}-{place:02d}",
                gang=_gang(params, like.model, f"{like.group}.schedules", len(runs) + place - 1),
                split=split,
                batch=batch,
                steps=like.steps * like.batch // batch,
                learning_rate=like.learning_rate * settings.learning_rate,
                schedule=settings.schedule,
                warmup=settings.warmup,
                scheduled=name,
            )
            for place, split in enumerate(splits, 1)
        ]
    return runs


def _noisy_runs(params: Params, plan: MislabelledPlan) -> list[Run]:
    """Return the runs on noisy labels: on random subsets, to fit a simulator, and on the whole pool."""
    task, group = mislabelled_task(plan), f"mislabelled-{plan.model}-{plan.task}"
    numbers = [("fit", i + 1) for i in range(plan.runs.fit)]
    numbers += [("validate", plan.runs.fit + i + 1) for i in range(plan.runs.validate_)]
    numbers += [("noisy", i + 1) for i in range(plan.retrainings)]
    runs = []
    for position, (split, number) in enumerate(numbers):
        draw = plan.pool if split == "noisy" else plan.draw
        runs.append(
            Run(
                run_id=f"{group}-{'noisy-' * (split == 'noisy')}{number:02d}",
                group=group,
                gang=_gang(params, plan.model, f"{group}.gang", position),
                scenario="fine_tuning",
                model=plan.model,
                train_tasks=(task,),
                test_tasks=(task,),
                pool="pool",
                split=split,
                **_seeds(params, number),
                draw=draw,
                first_example=0,
                pool_size=plan.pool,
                batch=plan.batch,
                epochs=plan.epochs,
                steps=plan.epochs * draw // plan.batch,
                learning_rate=plan.learning_rate,
            )
        )
    return runs


def _hashed(params: Params, run: Run, tasks: dict[str, dict[str, Any]], model: dict[str, Any]) -> Run:
    hash_ = _run_hash(params, run, tasks, model)
    return dataclasses.replace(run, hash=hash_, curriculum_hash=_curriculum_hash(run))


def measured_metrics(params: Params, run: Run, task: str) -> tuple[Metric, ...]:
    """What is measured in a run: of retrainings on subsets, on chosen data and under other settings the loss alone."""
    return ("loss",) if run.split in ("subset", "chosen", *SCHEDULED) else params.metrics(task)


def _curriculum_hash(run: Run) -> str:
    """Digest everything that a curriculum depends on."""
    keys = ("train_tasks", "pool", "draw_seed", "order_seed", "draw", "first_example", "pool_size", "batch", "epochs")
    return digest({key: getattr(run, key) for key in keys} | {"code": code_digest("curricula.draw")})


def _run_hash(params: Params, run: Run, tasks: dict[str, dict[str, Any]], model: dict[str, Any]) -> str:
    """Digest everything that determines a run's shard; where the run stands in the plan does not."""
    where = {
        *("run_id", "group", "gang", "split", "seed", "scheduled", "ranking", "fraction"),
        *("hash", "curriculum_hash"),
        *(key for key, own in {"schedule": "linear", "warmup": 0.0}.items() if getattr(run, key) == own),
    }
    # Such a curriculum is not drawn from the run's seeds alone.
    derived = {"curriculum": run.curriculum_hash, "ends_alone": run.ends_alone} if run.split in DERIVED else {}
    return digest(
        {
            "run": {key: value for key, value in dataclasses.asdict(run).items() if key not in where},
            "tasks": {task: without_paths(tasks[task]) for task in run.train_tasks},
            "metrics": {task: measured_metrics(params, run, task) for task in run.test_tasks},
            "model": model,
            "optimizer": params.dynamics.optimizer.model_dump(),
            "generation": params.dynamics.generation.model_dump(),
            # What is computed in one go moves the last bits of a loss.
            "evaluation_tokens": params.dynamics.evaluation_tokens,
            "precision": params.dynamics.precision,
            "compile": params.dynamics.compile,
            "code": code_digest(*DYNAMICS_CODE),
            **derived,
        }
    )
