"""Judge what simulators owe to what: results/refits; all of it in simulators.parquet and unseen_curves.parquet of
results/scores.

Methods are fitted again and judged on the held-out runs

- as variants: with some of their settings replaced, on all fitting runs;
- on fewer and on more fitting runs: on random ones, or, beyond a group's own, on those random subset runs that a method
  chooses itself (`GradientResponse.choose`). Subset runs are collected for judging attribution and measure the loss;
- on fitting runs that are measured at every k-th step alone, with straight lines between;
- on few tests of each task, judged on tests that no fit has read;
- with what gradients say of each step of the very run that is simulated, in place of kernels: what the best kernels
  could lead to, where replays of all runs were asked for;
- with the losses of the very run, for what its sampled texts are worth: what a simulator that knew all of its losses
  could say of them;
- on unseen data: training examples of a pool that no fitting run drew from, tests that no fit has read (a share of each
  task's at a time), or both;
- under other schedules (learning rates, batches, what the rate does over a run): one fit on the runs of all, or of all
  but the one that is judged;
- on runs of the same model in the other scenario, which are shorter or longer and have other batches, prompts and
  learning rates: simulators of a mixture on runs of single tasks (paper, Table 12).

Skill is against the mean curve of all of the group's fitting runs, however many a method is fitted on, so that the mean
curve of few runs has a negative one. Of a test that no fit has read the mean curve is not known: there skill is against
its `predicted_curve`. Under a schedule, seen or not, and in the other scenario it is against the mean curve of that
one's own fitting runs. Values are of each test task, and unweighted means over them; and means over draws. Intervals:
bootstrap over the judged runs, with the same draws for all methods of a group.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from gptfluence.errors import UserError
from gptfluence.io import digest, read_parquet, write_parquet
from gptfluence.scores import measures
from gptfluence.scores.curves import ExampleRun, list_curves, read_curves, write_curves
from gptfluence.scores.measures import Score, resample_counts
from gptfluence.scores.simulations import Simulations
from gptfluence.scores.words import ELSEWHERE, OWN_GRADIENTS, OWN_LOSSES, OWN_STEPS
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Kernels, Part, Simulator
from gptfluence.simulators.data import GroupData, load_group, read_features
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.registry import make_method, make_pooled
from gptfluence.simulators.simulate import read_replays
from gptfluence.words import (
    AVERAGE,
    CHOSEN_RUNS,
    COVERAGES,
    INTERVAL,
    MEASURED,
    OWN,
    PREDICTED_CURVE,
    RUNS,
    SCHEDULE_SEEN,
    SCHEDULE_UNSEEN,
    TESTS,
    WHOLE,
)

log = logging.getLogger("gptfluence")

MEASURES = ("all_steps_mse", "all_steps_mae", "final_step_spearman", "skill", "across_run_correlation")

_KEYS = ("group", "scenario", "model", "metric", "setting", "method", "variant", "varied", "number", "task", "measure")

SCHEMA = pa.schema(
    [(name, pa.int32() if name == "number" else pa.string()) for name in _KEYS]
    + [(name, pa.float64()) for name in ("value", "low", "high", "std_over_trajectories", "std_over_runs")]
    + [(name, pa.int32()) for name in ("n", "n_runs")]
)
"""setting: seen, unseen_train, unseen_test or unseen_both, the same behind `scores.words.ELSEWHERE` where simulators of
this group are judged on runs of the other scenario, or of schedules `words.SCHEDULE_SEEN` or `SCHEDULE_UNSEEN`;
variant: `words.WHOLE`, a variant's name, or of schedules which one, `words.OWN`, or `words.AVERAGE` over them; varied:
one of `words.VARIED`, else empty, and number: how many; task: where nothing is varied also each of them, else
`words.AVERAGE`; std: of values that are no mean over draws or tasks; n: of how many draws the value is a mean; n_runs:
how many runs it is judged on."""

_Scores = dict[tuple[str, str], Score]
"""By task and measure."""


class _Judge(NamedTuple):
    """What fits are judged on: measured runs, what skill is over there, how often resamples draw each run.

    Attributes:
        runs: held-out or unseen ones.
        reference: [steps + 1, tests], the mean curve or a predicted one; None: there is none, and no skill.
        counts: see `resample_counts`.
    """

    runs: GroupData
    reference: Array | None
    counts: Array

    def score(self, simulated: Array, half_widths: Array | None, start: int = 1) -> _Scores:
        """Score simulations of the runs: on each test task, and the mean over them.

        Args:
            simulated: [runs, steps + 1, tests].
            half_widths: [levels, runs, steps + 1, tests], if there are intervals.
            start: how many first steps were given and do not count.
        """
        ends = np.cumsum(self.runs.sizes)
        levels = COVERAGES if half_widths is not None else ()
        judged = [measure for measure in MEASURES if measure != "skill" or self.reference is not None]
        found: _Scores = {}
        for task, end, size in zip(self.runs.tasks, ends, self.runs.sizes, strict=True):
            tests = slice(end - size, end)
            measured = self.runs.truth[:, :, tests]
            on = np.flatnonzero(measures.whole_steps(measured))  # released runs have gaps
            on = on[on >= start]
            measured = measured[:, on]
            pair = simulated[:, :, tests][:, on], measured
            for measure in judged:
                against = []
                if measure == "skill":
                    against = [np.broadcast_to(self.reference[on, tests], measured.shape)]
                found[task, measure] = getattr(measures, measure)(*pair, *against, self.counts)
            for level, widths in zip(levels, half_widths if half_widths is not None else (), strict=True):
                found[task, level] = measures.coverage(*pair, widths[:, on][:, :, tests], self.counts)
        runs = len(self.runs.dynamics.values)
        averages = {
            (AVERAGE, measure): measures.average([found[task, measure] for task in self.runs.tasks], runs)
            for measure in (*judged, *levels)
        }
        return found | averages


def judge_simulators(spec: dict[str, Any], output: Path, curves_output: Path) -> None:
    """Put what `refit_simulators` made of every group and metric into one file, and its curves into another.

    Args:
        spec: refits and curves: the paths; judging: what all of them were judged with, see `refit_simulators`.
        output: Parquet, see `SCHEMA`.
        curves_output: Parquet, see `scores.curves`.

    Raises:
        UserError: a file is missing or damaged.
    """
    tables = [read_parquet(path, SCHEMA.names).cast(SCHEMA) for path in spec["refits"]]
    write_parquet(output, pa.concat_tables([SCHEMA.empty_table(), *tables]), {"simulators": spec["judging"]})
    curves: dict[ExampleRun, Simulations] = {}
    for path in spec["curves"]:
        curves |= read_curves(path, list_curves(path))
    write_curves(curves_output, curves)


def refit_simulators(spec: dict[str, Any], output: Path, curves_output: Path) -> None:
    """Fit and judge, of one group and metric, variants, methods on fewer and more runs, and methods on unseen tests.

    Args:
        spec: as `load_group` reads it, with runs of split fit, validate, held_out and (where there are any) unseen and
            subset, and methods {method: {settings, features, table, kernels (as `fit_simulator` gets them), variants
            ({name: the same}), learning (bool)}}, and unseen_tests (the same but for variants: what is judged on unseen
            tests, among it `words.PREDICTED_CURVE`); schedules: {} or runs ({schedule: runs of split fit, validate and
            held_out}) and methods (as there); elsewhere (methods: the same but for learning; groups: group, task, runs,
            train_tasks and train_size, each of a group of the same model in the other scenario, and rows: where its
            training examples are among the fitted group's, as stretches of [first, last, row of the first]; both empty
            where there are none); own_steps (paths of replays of all of these runs but those on subsets, or none);
            own_losses (bool: whether to judge what losses tell of this metric); and judging: runs (numbers of fitting
            runs), draws (of each), seed, intervals (of steps), tests (numbers of tests of each task), folds (in how
            many parts tests are unseen; if a task has fewer tests: one at a time), bootstrap_samples, bootstrap_seed,
            confidence.
        output: Parquet, see `SCHEMA`.
        curves_output: Parquet, trajectories of unseen tests on the first held-out and the first unseen run; see
            `scores.curves`.

    Raises:
        UserError: a file is missing, damaged or of another plan.
    """
    scores, curves = _judge_group(spec, spec["judging"])
    rows = _rows(spec, scores, spec["judging"]["confidence"])
    rows.sort(key=lambda row: [row[name] for name in _KEYS])
    write_parquet(output, pa.Table.from_pylist(rows, SCHEMA), {"judging": spec["judging"]})
    write_curves(curves_output, curves)


def _rows(group: dict[str, Any], scores: dict[Key, list[_Scores]], confidence: float) -> list[dict[str, Any]]:
    """Return the rows of a group's scores, means over draws."""
    rows = []
    where = {name: group[name] for name in ("group", "scenario", "model", "metric")}
    for key, found in scores.items():
        for (task, measure), first in found[0].items():
            if key.varied and task != AVERAGE:
                continue
            drawn = [each[task, measure] for each in found]
            score = first if len(found) == 1 else measures.average(drawn, first.n_runs)
            low, high = score.interval(confidence)
            rows.append(where | key._asdict() | {
                "task": task, "measure": measure, "value": score.value, "low": low, "high": high, "n": len(found),
                "n_runs": score.n_runs, "std_over_trajectories": score.std_over_trajectories,
                "std_over_runs": score.std_over_runs,
            })  # fmt: skip
    return rows


_JUDGED = {"seen": "held_out", "unseen_train": "unseen"}
"""Setting to the split of the runs that are judged in it."""

_SLOPE_STRENGTHS = (100.0, 10.0, 1.0, 0.1, 0.01)  # of equal ones the strongest is chosen


class Key(NamedTuple):
    """Which fit a score is of; see `SCHEMA`."""

    setting: str
    method: str
    variant: str = WHOLE
    varied: str = ""
    number: int = 0


def _judge_group(
    group: dict[str, Any], settings: dict[str, Any]
) -> tuple[dict[Key, list[_Scores]], dict[ExampleRun, Simulations]]:
    """Return the scores of every fit, those of equal numbers of random runs together; and curves of unseen tests."""
    splits = {run["split"] for run in group["runs"]}
    fitted = _load(group, "fit", "validate")
    more = _load(group, "subset") if "subset" in splits else None
    curve = fitted.dynamics.values[~fitted.dynamics.validate].mean(axis=0)
    judges = {}
    for setting, split in _JUDGED.items():
        if split in splits:
            runs, seed = _load(group, split), [settings["bootstrap_seed"], int(digest([group["group"], setting]), 16)]
            judges[setting] = _Judge(runs, curve, resample_counts(len(runs.runs), settings["bootstrap_samples"], seed))
    scores: dict[Key, list[_Scores]] = {}
    curves: dict[ExampleRun, Simulations] = {}
    for name, method in group["methods"].items():
        for variant, taken in {**method["variants"], WHOLE: method}.items():
            features = _read_features(group, taken)
            simulator = make_method(name, taken["settings"])
            needed = simulator.start - 1 + taken["settings"].get("interval", 1)
            if variant != WHOLE and needed > fitted.curricula.examples.shape[1]:
                log.info("%s, %s: runs are shorter than %d steps, left out", name, variant, needed)
                continue
            simulator.fit(fitted.dynamics, fitted.curricula, features)
            for setting, judge in judges.items():
                scores[Key(setting, name, variant)] = [_score(simulator, judge)]
        if method["learning"]:
            samples = _samples(fitted, more, features, (name, method["settings"]), settings)
            for key, dynamics, curricula in chain(samples, _thinned(fitted, name, settings["intervals"])):
                simulator = make_method(name, method["settings"])
                simulator.fit(dynamics, curricula, features)
                scores.setdefault(key, []).append(_score(simulator, judges["seen"]))
        if group["own_steps"] and method["settings"]["kind"] == GradientResponse.kind:
            scores |= _judge_given_own_steps(group["own_steps"], name, method["settings"], features, fitted, judges)
    if group["own_losses"]:
        scores |= _judge_given_losses(group, fitted, judges)
    if min(fitted.sizes) > 1:
        unseen, curves = _judge_unseen_tests(group, settings, fitted, judges)
        scores |= unseen
    if group["schedules"]:
        scores |= _judge_schedules(group, settings, fitted, judges["seen"])
    return scores | _judge_elsewhere(group, settings, fitted), curves


def _judge_given_own_steps(
    paths: list[str],
    name: str,
    settings: dict[str, Any],
    features: Features,
    fitted: GroupData,
    judges: dict[str, _Judge],
) -> dict[Key, list[_Scores]]:
    """Return the scores of a gradient response to the steps of the very run that it simulates.

    Each run counts as a training example of its own, of which all its batches are made; what it does in step t, by a
    kernel of that step, is what its gradients said. Momentum is in AdamW's own steps.
    """
    runs = [run for data in (fitted, *(judge.runs for judge in judges.values())) for run in data.runs]
    place = {run: number for number, run in enumerate(runs)}
    steps = fitted.curricula.examples.shape[1]
    effects = read_replays(paths, runs, [OWN_STEPS[kernel] for kernel in settings["kernels"]])
    kernels = {kernel: -effects[OWN_STEPS[kernel]].swapaxes(0, 1) for kernel in settings["kernels"]}
    ones = np.ones(len(runs), np.int64)
    given = replace(features, kernels=Kernels(np.arange(steps), ones, kernels))

    def curricula(of: tuple[str, ...]) -> Curricula:
        numbers = np.array([place[run] for run in of])
        return Curricula(np.repeat(numbers[:, None, None], steps, axis=1), np.ones((len(of), steps)))

    simulator = make_method(name, settings | {"momenta": [0.0]})
    simulator.fit(fitted.dynamics, curricula(fitted.runs), given)
    found = {}
    for setting, judge in judges.items():
        known = judge._replace(runs=replace(judge.runs, curricula=curricula(judge.runs.runs)))
        found[Key(setting, name, OWN_GRADIENTS)] = [_score(simulator, known)]
    return found


def _judge_given_losses(
    group: dict[str, Any], fitted: GroupData, judges: dict[str, _Judge]
) -> dict[Key, list[_Scores]]:
    """Return the scores of the mean curve, moved as the losses of the very run are.

    What a run differs by from the mean is a multiple of what its loss differs by, for each test another: a ridge, whose
    strength (in units of the mean over tests of the loss's sum of squares) the validation runs choose.
    """
    losses = _load(group | {"metric": "loss"}, "fit", "validate").dynamics.values
    fit = ~fitted.dynamics.validate
    centre = losses[fit].mean(axis=0)
    apart, own = losses - centre, fitted.dynamics.values - fitted.dynamics.values[fit].mean(axis=0)
    squares = np.einsum("rsz,rsz->z", apart[fit], apart[fit])
    products = np.einsum("rsz,rsz->z", apart[fit], own[fit])
    # Where losses never differ, products are 0, too.
    slopes = [products / (squares + strength * (squares.mean() or 1.0)) for strength in _SLOPE_STRENGTHS]
    slope = min(slopes, key=lambda slope: float(np.square(own[~fit] - slope * apart[~fit]).sum()))
    found = {}
    for setting, judge in judges.items():
        losses = _load(group | {"metric": "loss"}, _JUDGED[setting]).dynamics.values
        found[Key(setting, "mean_curve", OWN_LOSSES)] = [judge.score(judge.reference + slope * (losses - centre), None)]
    return found


def _judge_schedules(
    group: dict[str, Any], settings: dict[str, Any], fitted: GroupData, own: _Judge
) -> dict[Key, list[_Scores]]:
    """Return the scores of fits on the runs of all schedules, and of all but that of the runs they are judged on."""
    parts = {OWN: Part(fitted.dynamics, fitted.curricula)}
    judges = {OWN: own}
    for schedule, runs in group["schedules"]["runs"].items():
        known, held_out = (_load(group | {"runs": runs}, *splits) for splits in (("fit", "validate"), ("held_out",)))
        parts[schedule] = Part(known.dynamics, known.curricula)
        curve = known.dynamics.values[~known.dynamics.validate].mean(axis=0)
        seed = [settings["bootstrap_seed"], int(digest([group["group"], schedule]), 16)]
        counts = resample_counts(len(held_out.runs), settings["bootstrap_samples"], seed)
        judges[schedule] = _Judge(held_out, curve, counts)
    found: dict[Key, list[_Scores]] = {}
    for name, method in group["schedules"]["methods"].items():
        features = _read_features(group, method)
        for setting, left_out in [(SCHEDULE_SEEN, None), *((SCHEDULE_UNSEEN, schedule) for schedule in parts)]:
            if left_out is None and "fitted" in method:
                simulator, _ = load_simulator(method["fitted"])
            else:
                simulator = make_pooled(name, method["settings"], fitted.curricula.rates[0])
                simulator.fit_parts([part for schedule, part in parts.items() if schedule != left_out], features)
            for schedule in parts if left_out is None else (left_out,):
                found[Key(setting, name, schedule)] = [_score(simulator, judges[schedule])]
        log.info("%s: %s judged under %d schedules", group["group"], name, len(parts))
    for schedule, judge in judges.items():
        measured = judge.runs.dynamics.values
        found[Key(SCHEDULE_SEEN, "mean_curve", schedule)] = [
            judge.score(np.broadcast_to(judge.reference, measured.shape), None)
        ]
        for setting in (SCHEDULE_SEEN, SCHEDULE_UNSEEN):
            stays = np.repeat(measured[:, :1], measured.shape[1], axis=1)
            found[Key(setting, "persistence", schedule)] = [judge.score(stays, None)]
    for setting, name in {(key.setting, key.method) for key in found}:
        of_schedules = [found[Key(setting, name, schedule)][0] for schedule in parts]
        found[Key(setting, name, AVERAGE)] = [_average(of_schedules)]
    return found


def _average(schedules: list[_Scores]) -> _Scores:
    """Return the means over schedules, which share no run, of the averages over tasks that all of them have."""
    runs = sum(next(iter(scores.values())).n_runs for scores in schedules)
    keys = [(AVERAGE, measure) for measure in MEASURES]
    return {key: measures.average([scores[key] for scores in schedules], runs) for key in keys}


UNSEEN_TESTS = {"seen": "unseen_test", "unseen_train": "unseen_both"}
"""Setting of the runs to setting where the tests are unseen, too."""


def _judge_unseen_tests(
    group: dict[str, Any], settings: dict[str, Any], fitted: GroupData, judges: dict[str, _Judge]
) -> tuple[dict[Key, list[_Scores]], dict[ExampleRun, Simulations]]:
    """Return the scores of methods that know nothing of the tests that they are judged on, and curves of first runs.

    Every test is in one of the folds, and simulated by fits on tests of the other folds: on all, or on some at random.
    """
    fold = _folds(fitted.sizes, settings["folds"])
    # A test's rank among those of its task and of other folds, at random: the first n are known.
    ranks = {number: _ranks(fold != number, fitted.sizes, [settings["seed"], number]) for number in np.unique(fold)}
    most = min(int((fold[:size] != number).sum()) for number in ranks for size in fitted.sizes)
    numbers = [number for number in settings["tests"] if number <= most]
    found: dict[Key, list[_Scores]] = {}
    shown: dict[str, dict[str, tuple[Array, Array | None, int]]] = {setting: {} for setting in judges}
    if PREDICTED_CURVE not in group["unseen_tests"]:  # it takes gradients
        judges = {setting: judge._replace(reference=None) for setting, judge in judges.items()}
    # What the others' skill is over comes first.
    for name, method in sorted(group["unseen_tests"].items(), key=lambda item: item[0] != PREDICTED_CURVE):
        features = _read_features(group, method)
        for tests in [None, *(numbers if method["learning"] else ())]:
            simulated = {setting: np.empty_like(judge.runs.dynamics.values) for setting, judge in judges.items()}
            widths: dict[str, list[Array | None]] = {setting: [] for setting in judges}
            for number, rank in ranks.items():
                hidden, known = fold == number, rank < (len(rank) if tests is None else tests)
                simulator = make_method(name, method["settings"])
                dynamics = Dynamics(fitted.dynamics.values[:, :, known], fitted.dynamics.validate)
                simulator.fit(dynamics, fitted.curricula, features.of_tests(known))
                # Before the first update all runs are the same model.
                other = simulator.transfer(features.of_tests(hidden), fitted.dynamics.values[0, 0, hidden])
                if other is None:
                    raise UserError(f"{name}: cannot simulate tests that it was not fitted on; take it out of "
                                    "scores.unseen_tests.methods in params.yaml")  # fmt: skip
                for setting, judge in judges.items():
                    given = judge.runs.dynamics.values[:, : other.start, hidden]
                    simulated[setting][:, :, hidden] = other.simulate(judge.runs.curricula, given)
                    widths[setting].append(other.half_widths(judge.runs.curricula))
            if name == PREDICTED_CURVE and tests is None:  # its runs differ in the given value alone
                judges = {setting: judge._replace(reference=simulated[setting][0]) for setting, judge in judges.items()}
            for setting, judge in judges.items():
                varied = (TESTS, tests) if tests is not None else ()
                by_test = _by_test(widths[setting], fold)
                scores = judge.score(simulated[setting], by_test, other.start)
                found[Key(UNSEEN_TESTS[setting], name, WHOLE, *varied)] = [scores]
                if tests is None:
                    first = None if by_test is None else by_test[:, :1]
                    shown[setting][name] = simulated[setting][:1], first, other.start
    curves = {}
    for setting, judge in judges.items():
        where = (group["scenario"], group["model"], group["group"], group["metric"], UNSEEN_TESTS[setting])
        curves[ExampleRun(*where, judge.runs.runs[0])] = _first_run(judge.runs, shown[setting])
    return found, curves


def _first_run(runs: GroupData, simulated: dict[str, tuple[Array, Array | None, int]]) -> Simulations:
    """Return what was measured and simulated of the first run.

    Args:
        runs: as they were measured.
        simulated: by method, [1, steps + 1, tests]; half widths, [levels, 1, steps + 1, tests]; the first step that was
            predicted.
    """
    tasks = np.repeat(runs.tasks, runs.sizes)
    examples = np.concatenate([np.arange(size) for size in runs.sizes])
    order = np.lexsort((examples, tasks))
    measured = {MEASURED: (runs.dynamics.values[:1], None, 0)}
    methods = dict(sorted((measured | simulated).items()))
    values = np.stack([of_runs[..., order] for of_runs, _, _ in methods.values()]).astype(np.float32)
    for place, (_, _, start) in enumerate(methods.values()):
        values[place, :, :start] = np.nan  # given
    half_widths = {name: widths[..., order].astype(np.float32) for name, (_, widths, _) in methods.items()
                   if widths is not None}  # fmt: skip
    starts = [start for _, _, start in methods.values()]
    return Simulations(list(methods), [runs.runs[0]], tasks[order], examples[order], values, starts, half_widths)


def _judge_elsewhere(group: dict[str, Any], settings: dict[str, Any], fitted: GroupData) -> dict[Key, list[_Scores]]:
    """Return the scores of a group's simulators on runs of the other scenario, by task.

    They are given the curricula as they are, whatever the number of steps and the batch. Training examples that the
    fitting runs drew from are seen, and so are tests but in fits on the tests of other folds.
    """
    found: dict[Key, list[_Scores]] = {}
    judges: list[tuple[str, _Judge]] = []
    for other in group["elsewhere"]["groups"]:
        own = {key: other[key] for key in ("runs", "train_tasks", "train_size")}
        there = group | {"test_tasks": [other["task"]]} | own
        curve = _load(there, "fit").dynamics.values.mean(axis=0)
        splits = {run["split"] for run in other["runs"]}
        for setting, split in _JUDGED.items():
            if split in splits:
                loaded = _load(there, split)
                runs = replace(loaded, curricula=_in_rows(loaded.curricula, other))
                seed = [settings["bootstrap_seed"], int(digest([other["group"], setting]), 16)]
                counts = resample_counts(len(runs.runs), settings["bootstrap_samples"], seed)
                judges.append((setting, _Judge(runs, curve, counts)))

    def add(setting: str, name: str, variant: str, scores: _Scores) -> None:
        (kept,) = found.setdefault(Key(f"{ELSEWHERE}{setting}", name, variant), [{}])
        kept.update({key: score for key, score in scores.items() if key[0] != AVERAGE})

    for setting, judge in judges:
        simulated = np.repeat(judge.reference[None], len(judge.runs.runs), axis=0)
        for known in (setting, UNSEEN_TESTS[setting]):
            add(known, "mean_curve", WHOLE, judge.score(simulated, None))
    fold = _folds(fitted.sizes, settings["folds"])
    nothing = np.zeros(len(fold), bool)
    variants = [(name, variant, taken) for name, method in group["elsewhere"]["methods"].items()
                for variant, taken in {WHOLE: method, **method["variants"]}.items()]  # fmt: skip
    for name, variant, taken in variants if judges else ():
        features = _read_features(group, taken)
        # All tests known; then those of each fold hidden.
        for masks in [nothing], [fold == number for number in np.unique(fold)]:
            simulated = [np.empty((*judge.runs.dynamics.values.shape[:2], len(fold))) for _, judge in judges]
            for hidden in masks:
                simulator = make_method(name, taken["settings"])
                dynamics = Dynamics(fitted.dynamics.values[:, :, ~hidden], fitted.dynamics.validate)
                simulator.fit(dynamics, fitted.curricula, features.of_tests(~hidden))
                tests = hidden if hidden.any() else ~hidden
                if hidden.any():
                    simulator = simulator.transfer(features.of_tests(hidden), fitted.dynamics.values[0, 0, hidden])
                assert simulator is not None
                for values, (_, judge) in zip(simulated, judges, strict=True):
                    given = np.zeros((len(values), simulator.start, len(fold)))
                    given[:, :, _columns(fitted, judge)] = judge.runs.dynamics.values[:, : simulator.start]
                    values[:, :, tests] = simulator.simulate(judge.runs.curricula, given[:, :, tests])
            for values, (setting, judge) in zip(simulated, judges, strict=True):
                known = setting if masks[0] is nothing else UNSEEN_TESTS[setting]
                add(known, name, variant, judge.score(values[:, :, _columns(fitted, judge)], None, simulator.start))
    return found


def _in_rows(curricula: Curricula, other: dict[str, Any]) -> Curricula:
    """Return curricula of another group in the rows of the fitted one; all of its examples must have one."""
    rows = np.full(len(other["train_tasks"]) * other["train_size"], -1)
    for first, last, to in other["rows"]:
        rows[first : last + 1] = np.arange(to, to + last + 1 - first)
    examples = rows[curricula.examples]
    assert (examples >= 0).all(), f"{other['group']}: trains on examples that are in no row"
    return replace(curricula, examples=examples)


def _columns(fitted: GroupData, judge: _Judge) -> slice:
    """Return which of a group's tests are those of the one task that is judged."""
    (task,) = judge.runs.tasks
    place = fitted.tasks.index(task)
    first = sum(fitted.sizes[:place])
    return slice(first, first + fitted.sizes[place])


def _folds(sizes: tuple[int, ...], folds: int) -> NDArray[np.int64]:
    """Return in which part each test is, [tests]: those of each task in turn."""
    return np.concatenate([np.arange(size) for size in sizes]) % folds


def _ranks(kept: NDArray[np.bool_], sizes: tuple[int, ...], seed: list[int]) -> NDArray[np.int64]:
    """Number the kept tests of each task at random from 0, [tests]; others get a number beyond all."""
    draw = np.random.default_rng(seed).random(len(kept)) + ~kept
    ranks = np.concatenate([np.argsort(np.argsort(part)) for part in np.split(draw, np.cumsum(sizes)[:-1])])
    return np.where(kept, ranks, len(kept))


def _by_test(widths: list[Array | None], fold: NDArray[np.int64]) -> Array | None:
    """Put half widths of the folds' tests, [levels, runs, steps + 1, tests of the fold], in the order of all tests."""
    known = [part for part in widths if part is not None]
    if len(known) < len(widths):
        return None
    return np.concatenate(known, axis=-1)[..., np.argsort(np.argsort(fold, kind="stable"))]


def _read_features(group: dict[str, Any], method: dict[str, Any]) -> Features:
    return read_features(group | {key: method[key] for key in ("features", "table", "kernels")})


def _load(group: dict[str, Any], *splits: str) -> GroupData:
    runs = [run for run in group["runs"] if run["split"] in splits]
    return load_group(group | {"runs": runs, "features": None, "table": None, "kernels": None})


def _score(simulator: Simulator, judge: _Judge) -> _Scores:
    first_values = judge.runs.dynamics.values[:, : simulator.start]
    curricula = judge.runs.curricula
    simulated = simulator.simulate(curricula, first_values)
    return judge.score(simulated, simulator.half_widths(curricula), simulator.start)


def _samples(
    fitted: GroupData,
    more: GroupData | None,
    features: Features,
    method: tuple[str, dict[str, Any]],
    settings: dict[str, Any],
) -> Iterator[tuple[Key, Dynamics, Curricula]]:
    """Yield fitting runs of each wanted number, always with all validation runs.

    Random ones are the group's own in random order, and behind them subset runs; chosen ones are all of the group's own
    and then the subset runs that the method, fitted on its own, chooses.
    """
    name, own_settings = method
    validate = fitted.dynamics.validate
    values, curricula = fitted.dynamics.values, fitted.curricula
    if more is not None:
        values = np.concatenate([values, more.dynamics.values])
        curricula = Curricula(
            np.concatenate([curricula.examples, more.curricula.examples]),
            np.concatenate([curricula.rates, more.curricula.rates]),
        )
    own, checks = np.flatnonzero(~validate), np.flatnonzero(validate)
    others = np.arange(len(validate), len(values))

    def sample(order: NDArray[np.int64], runs: int) -> tuple[Dynamics, Curricula]:
        kept = np.concatenate([order[:runs], checks])
        return Dynamics(values[kept], np.arange(len(kept)) >= runs), curricula.of(kept)

    numbers = [runs for runs in settings["runs"] if runs <= len(own) + len(others)]
    for draw in range(settings["draws"]):
        generator = np.random.default_rng([settings["seed"], draw])
        order = np.concatenate([generator.permutation(own), generator.permutation(others)])
        for runs in numbers:
            yield Key("seen", name, WHOLE, RUNS, runs), *sample(order, runs)
    beyond = [runs for runs in numbers if runs > len(own)]
    if not beyond:
        return
    simulator = make_method(name, own_settings)
    simulator.fit(fitted.dynamics, fitted.curricula, features)
    chosen = simulator.choose(curricula.of(others), max(beyond) - len(own))
    for runs in beyond if chosen is not None else ():
        yield Key("seen", name, WHOLE, CHOSEN_RUNS, runs), *sample(np.concatenate([own, others[chosen]]), runs)


def _thinned(fitted: GroupData, name: str, intervals: list[int]) -> Iterator[tuple[Key, Dynamics, Curricula]]:
    """Yield the runs as they are known when measured at the first and last and every k-th step alone."""
    values, validate = fitted.dynamics.values, fitted.dynamics.validate
    steps = np.arange(values.shape[1])
    for interval in (k for k in intervals if k < steps[-1]):
        measured = np.union1d(steps[::interval], steps[-1:])
        between = make_interp_spline(measured, values[:, measured], k=1, axis=1)
        yield Key("seen", name, WHOLE, INTERVAL, interval), Dynamics(between(steps), validate), fitted.curricula
