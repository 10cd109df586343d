"""Which released runs serve for what: groups of runs that one simulator is fitted on, and why other runs are left out.

A pure function of an import's report and a scale's settings; nothing is assumed to be there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gptfluence.params import Metric, ReleasedScale
from gptfluence.released.mixed import Stretch, place
from gptfluence.released.names import MIXTURE

Described = Mapping[str, Any]
"""What `recording.describe` says of a run."""


@dataclass(frozen=True)
class Member:
    """A released run in a group.

    Attributes:
        stem: of its files.
        split: fit, validate, held_out or unseen.
        number: its seed, or its place if its name tells none.
        offset: added to its training ids.
    """

    stem: str
    split: str
    number: int
    offset: int
    found: Described


@dataclass(frozen=True)
class Planned:
    """Runs of one model on one task, or on the mixture.

    Attributes:
        unit: the task, or mixture.
        train_task: whose examples it trains on: the task, or `flan`.
        tests: how many tests each test task has.
        first, last: steps that are recorded.
        batch: examples a step.
        placed: of the mixture, which of its training examples are those of each single task.
    """

    scenario: str
    model: str
    unit: str
    train_task: str
    tests: dict[str, int]
    metrics: tuple[Metric, ...]
    first: int
    last: int
    batch: int
    pool: int
    members: tuple[Member, ...]
    placed: dict[str, tuple[Stretch, ...]] | None = None

    @property
    def group(self) -> str:
        """Its name in the run table."""
        return f"{self.scenario}-{self.model}-{self.unit}"


@dataclass(frozen=True)
class Plan:
    """What a release is good for.

    Attributes:
        groups: that simulators are fitted on.
        left_out: why, by folder of the run, or by group.
    """

    groups: tuple[Planned, ...]
    left_out: dict[str, str]


def make_plan(report: Mapping[str, Any], settings: ReleasedScale, metrics_of: Mapping[str, tuple[Metric, ...]]) -> Plan:
    """Say which runs serve for what.

    Args:
        report: of an import.
        settings: a scale's.
        metrics_of: what is measured on each task.
    """
    left_out: dict[str, str] = {}
    units: dict[tuple[str, str, str], list[tuple[str, Described]]] = defaultdict(list)
    seen: dict[tuple[Any, ...], str] = {}
    for stem, run in sorted(report["runs"].items(), key=lambda item: (*_rank(item[1]), item[0])):
        folder, number = run["folder"], run["seed"]
        if run["kind"] == "other":
            left_out[folder] = "on mislabelled data, or on one task of the mixture's own pool: not simulated"
            continue
        if run["first"] is None or run["batches"]["first"] is None:
            left_out[folder] = "nothing was measured" if run["first"] is None else "what it trained on is not recorded"
            continue
        unit = (run["kind"], run["model"] or "unknown", run["task"])
        same = (*unit, run["unseen"], number)
        if number is not None and same in seen:
            left_out[folder] = f"the same run as {seen[same]}"
            continue
        seen[same] = folder
        units[unit].append((stem, run))
    groups = []
    for (scenario, model, task), runs in sorted(units.items()):
        group = _group(report, settings, metrics_of, (scenario, model, task), runs, left_out)
        if group is not None:
            groups.append(group)
    return Plan(tuple(groups), left_out)


def _rank(run: Described) -> tuple[bool, bool]:
    """Of two recordings of one run the lower one counts: that with ids of its own, and then the preprocessed one."""
    return run["for_mixture"], "raw" in run["layouts"].values()


def _stretches(report: Mapping[str, Any]) -> dict[str, tuple[Stretch, ...]]:
    return {task: tuple(Stretch(*stretch) for stretch in found) for task, found in report["mixed"].items()}


def _group(
    report: Mapping[str, Any],
    settings: ReleasedScale,
    metrics_of: Mapping[str, tuple[Metric, ...]],
    key: tuple[str, str, str],
    runs: list[tuple[str, Described]],
    left_out: dict[str, str],
) -> Planned | None:
    """Put together the runs that are alike; None if they do not make a group."""
    scenario, model, task = key
    unit = "mixture" if task == MIXTURE else task
    name = f"{scenario}-{model}-{unit}"
    usual = _most([_shape(run) for _, run in runs if not run["unseen"]])
    if usual is None:
        left_out[name] = "has runs on unseen data alone"
        return None
    first, last, batch, tests = usual
    measured = [run for _, run in runs if _shape(run) == usual and not run["unseen"]]
    metrics = tuple(m for m in ("loss", "bleu", "rouge_l") if any(m in metrics_of[t] for t, _ in tests))
    metrics = tuple(
        m for m in metrics if 2 * sum(not _lacks(r, m, tests, metrics_of) for r in measured) >= len(measured)
    )
    kept = []
    for stem, run in runs:
        if why := _why_not(run, usual, metrics, metrics_of):
            left_out[run["folder"]] = why
        else:
            kept.append((stem, run))
    seen = sorted((r for r in kept if not r[1]["unseen"]), key=_order)
    unseen = sorted((r for r in kept if r[1]["unseen"]), key=_order)
    splits = _splits([run["seed"] for _, run in seen], settings, unit)
    if not {"fit", "validate", "held_out"} <= set(splits):
        left_out[name] = f"has {len(seen)} runs that can be used: too few to fit, validate and hold out"
        return None
    if "loss" not in metrics:
        left_out[name] = "has no losses"
        return None
    pool = 1 + max(run["batches"]["greatest"] for _, run in seen)
    placed = _stretches(report)
    texts = report["samples"].get(f"{task} train", {"examples": 0})["examples"]
    offsets = {stem: _offset(run, settings, task, pool, texts, placed) for stem, run in unseen}
    for stem, run in unseen:
        if offsets[stem] is None:
            left_out[run["folder"]] = (
                f"its training ids, {run['batches']['least']} to {run['batches']['greatest']}, are of no known example"
            )
    unseen = [(stem, run) for stem, run in unseen if offsets[stem] is not None]
    members = []
    for i, ((stem, run), split) in enumerate(zip([*seen, *unseen], [*splits, *["unseen"] * len(unseen)], strict=True)):
        number = run["seed"] if run["seed"] is not None else 1 + i - (len(seen) if split == "unseen" else 0)
        members.append(Member(stem, split, number, offsets.get(stem) or 0, run))
    lacking = _lacking_texts(report["samples"], task, dict(tests), members)
    if lacking:
        left_out[name] = lacking
        return None
    return Planned(scenario, model, unit, task, dict(tests), metrics, first, last, batch, pool, tuple(members),
                   placed if task == MIXTURE else None)  # fmt: skip


Shape = tuple[int, int, int, tuple[tuple[str, int], ...]]
"""First and last step, batch, and the number of each task's tests."""


def _shape(run: Described) -> Shape:
    tests = tuple(sorted((task, tests["ids"]) for task, tests in run["tests"].items() if "loss" in tests["gaps"]))
    return run["first"], run["last"], max(run["batches"]["sizes"]), tests


def _most(shapes: list[Shape]) -> Shape | None:
    """Return the shape that most runs have; of several the longest."""
    counts = Counter(shapes)
    return max(counts, key=lambda shape: (counts[shape], shape[1] - shape[0], shape), default=None)


def _lacks(
    run: Described, metric: str, tests: tuple[tuple[str, int], ...], metrics_of: Mapping[str, tuple[Metric, ...]]
) -> list[str]:
    """Return the test tasks whose first and last step a metric was not measured at throughout."""
    wanted = [task for task, _ in tests if metric in metrics_of[task]]
    return [task for task in wanted if not run["tests"][task]["ends"].get(metric)]


def _why_not(
    run: Described, usual: Shape, metrics: Iterable[Metric], metrics_of: Mapping[str, tuple[Metric, ...]]
) -> str | None:
    """Return why a run cannot stand beside the others of its group; None if it can."""
    first, last, batch, tests = usual
    shape = _shape(run)
    names = ("first step", "last step", "batch size", "tests")
    other = [
        f"{name} {own}, the others {one}" for name, own, one in zip(names, shape, usual, strict=True) if own != one
    ]
    if other:
        return "; ".join(other)
    batches = run["batches"]
    if not all(run["tests"][task]["whole"] for task, _ in tests):
        return "ids of tests do not count from 0"
    if batches["sizes"] != [batch]:
        return f"batches of different sizes: {batches['sizes']}"
    if batches["first"] > 1 or batches["last"] < last or any(step <= last for step in batches["missing"]):
        return f"what it trained on is not recorded for all of steps 1 to {last}"
    for metric in metrics:
        if lacking := _lacks(run, metric, tests, metrics_of):
            return f"{metric} of {', '.join(lacking)} is not measured throughout at step {first} or {last}"
    return None


def _order(item: tuple[str, Described]) -> tuple[bool, int, str]:
    seed = item[1]["seed"]
    return seed is None, seed or 0, item[0]


def _splits(seeds: list[int | None], settings: ReleasedScale, unit: str) -> list[str]:
    """Return what each run serves for, in the order of their seeds: held out are the named seeds, or the last ones."""
    named = settings.held_out_seeds.get(unit, ())
    held_out = [i for i, seed in enumerate(seeds) if seed in named] or list(range(len(seeds)))[-settings.held_out :]
    others = [i for i in range(len(seeds)) if i not in held_out]
    validate = others[-settings.validate_ :]
    return ["held_out" if i in held_out else "validate" if i in validate else "fit" for i in range(len(seeds))]


def _offset(
    run: Described,
    settings: ReleasedScale,
    task: str,
    pool: int,
    texts: int,
    placed: Mapping[str, tuple[Stretch, ...]],
) -> int | None:
    """Return what is added to the ids of a run on unseen data; None if they are of no known example.

    They count from 0, or go on from those of the pool. Those of a run for the mixture's simulators may be the
    mixture's, or what one number makes of them for every task, and then fall on examples of another one.

    Args:
        pool: how many examples the pool has, as far as runs tell.
        texts: how many training examples of the task are known.
    """
    least, greatest = run["batches"]["least"], run["batches"]["greatest"]
    first = settings.unseen_offsets.get(task, pool)
    offset = first if least < first else 0
    if not run["for_mixture"] or greatest + offset < texts:
        return offset if greatest + offset < texts else None
    for name in sorted(placed, key=lambda name: name != task):
        begin = place(settings.unseen_offsets.get(name, first), 1, placed[name])
        if begin is not None and begin <= least and greatest + first - begin < texts:
            return first - begin
    return None


def _lacking_texts(
    samples: Mapping[str, Any], task: str, tests: Mapping[str, int], members: Iterable[Member]
) -> str | None:
    """Say whether the text of an example is missing; None if all are there."""
    trained = samples.get(f"{task} train", {"examples": 0, "missing": []})
    greatest = max(m.found["batches"]["greatest"] + m.offset for m in members)
    if trained["examples"] + len(trained["missing"]) <= greatest or trained["missing"]:
        return f"texts of training examples of {task} are missing: ids up to {greatest} are trained on"
    for name, size in tests.items():
        where = f"{MIXTURE} test" if task == MIXTURE else f"{name} test"
        found = samples.get(where, {"examples": 0, "missing": []})
        if found["missing"] or found["examples"] < (sum(tests.values()) if task == MIXTURE else size):
            return f"texts of tests are missing: {found['examples']} of {where.split()[0]}"
    return None
