"""Judge what simulators owe to what: results/refits, and all of it in results/scores/simulators.parquet.

Methods are fitted again and judged on the held-out runs

- as variants: with some of their settings replaced, on all fitting runs;
- on fewer and on more fitting runs: on random ones, or, beyond a group's own, on those random subset runs that a method
  chooses itself (`GradientResponse.choose`). Subset runs are collected for judging attribution and measure the loss;
- on fitting runs that are measured at every k-th step alone, with straight lines between;
- on few tests of each task, judged on tests that no fit has read;
- on unseen data: training examples of a pool that no fitting run drew from, tests that no fit has read (a share of each
  task's at a time), or both.

Skill is against the mean curve of all of the group's fitting runs, however many a method is fitted on, so that the mean
curve of few runs has a negative one. Of a test that no fit has read the mean curve is not known: there skill is against
its `predicted_curve`. Every value is the unweighted mean over test tasks and draws; intervals: bootstrap
over the judged runs, with the same draws for all methods of a group.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
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
from gptfluence.scores.measures import Score, resample_counts
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.data import GroupData, load_group, read_features
from gptfluence.simulators.registry import make_method
from gptfluence.words import CHOSEN_RUNS, COVERAGES, INTERVAL, PREDICTED_CURVE, RUNS, TESTS, WHOLE

log = logging.getLogger("gptfluence")

MEASURES = ("all_steps_mse", "skill", "across_run_correlation")

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("group", "scenario", "model", "metric", "setting", "method", "variant", "varied")]
    + [("number", pa.int32()), ("measure", pa.string())]
    + [(name, pa.float64()) for name in ("value", "low", "high")]
    + [("n", pa.int32())]
)
"""setting: seen, unseen_train, unseen_test or unseen_both; variant: `words.WHOLE`, or a variant's name; varied: one of
`words.VARIED`, else empty, and number: how many; n: of how many draws the value is a mean."""


class _Judge(NamedTuple):
    """What fits are judged on: measured runs, what skill is over there, how often resamples draw each run.

    Attributes:
        runs: held-out or unseen ones.
        reference: [steps + 1, tests], the mean curve or a predicted one.
        counts: see `resample_counts`.
    """

    runs: GroupData
    reference: Array
    counts: Array

    def score(self, simulated: Array, half_widths: Array | None, start: int = 1) -> dict[str, Score]:
        """Score simulations of the runs: the mean over test tasks.

        Args:
            simulated: [runs, steps + 1, tests].
            half_widths: [levels, runs, steps + 1, tests], if there are intervals.
            start: how many first steps were given and do not count.
        """
        measured = self.runs.dynamics.values[:, start:]
        reference = np.broadcast_to(self.reference[start:], measured.shape)
        ends = np.cumsum(self.runs.sizes)
        levels = COVERAGES if half_widths is not None else ()
        found: dict[str, list[Score]] = {measure: [] for measure in (*MEASURES, *levels)}
        for end, size in zip(ends, self.runs.sizes, strict=True):
            tests = slice(end - size, end)
            pair = simulated[:, start:, tests], measured[:, :, tests]
            for measure in MEASURES:
                against = [reference[:, :, tests]] if measure == "skill" else []
                found[measure].append(getattr(measures, measure)(*pair, *against, self.counts))
            for level, widths in zip(levels, half_widths if half_widths is not None else (), strict=True):
                found[level].append(measures.coverage(*pair, widths[:, start:, tests], self.counts))
        return {measure: measures.average(scores, len(measured)) for measure, scores in found.items()}


def judge_simulators(spec: dict[str, Any], output: Path) -> None:
    """Put what `refit_simulators` made of every group and metric into one file.

    Args:
        spec: refits: their paths; judging: what all of them were judged with, see there.
        output: Parquet.

    Raises:
        UserError: a file is missing or damaged.
    """
    tables = [read_parquet(path, SCHEMA.names).cast(SCHEMA) for path in spec["refits"]]
    write_parquet(output, pa.concat_tables([SCHEMA.empty_table(), *tables]), {"simulators": spec["judging"]})


def refit_simulators(spec: dict[str, Any], output: Path) -> None:
    """Fit and judge, of one group and metric, variants, methods on fewer and more runs, and methods on unseen tests.

    Args:
        spec: as `load_group` reads it, with runs of split fit, validate, held_out and (where there are any) unseen and
            subset, and methods {method: {settings, features, table, kernels (as `fit_simulator` gets them), variants
            ({name: the same}), learning (bool)}}, and unseen_tests (the same but for variants: what is judged on unseen
            tests, among it `words.PREDICTED_CURVE`); and judging: runs (numbers of fitting runs), draws (of each),
            seed, intervals (of steps), tests (numbers of tests of each task), folds (in how many parts tests are
            unseen; if a task has fewer tests: one at a time), bootstrap_samples, bootstrap_seed, confidence.
        output: Parquet.

    Raises:
        UserError: a file is missing, damaged or of another plan.
    """
    rows = []
    where = [spec[name] for name in ("group", "scenario", "model", "metric")]
    for key, found in _judge_group(spec, spec["judging"]).items():
        for measure in found[0]:
            score = measures.average([scores[measure] for scores in found], found[0][measure].n_runs)
            low, high = score.interval(spec["judging"]["confidence"])
            values = (*where, *key, measure, score.value, low, high, len(found))
            rows.append(dict(zip(SCHEMA.names, values, strict=True)))
    rows.sort(key=lambda row: [row[name] for name in SCHEMA.names[:10]])
    write_parquet(output, pa.Table.from_pylist(rows, SCHEMA), {"judging": spec["judging"]})


class Key(NamedTuple):
    """Which fit a score is of; see `SCHEMA`."""

    setting: str
    method: str
    variant: str = WHOLE
    varied: str = ""
    number: int = 0


def _judge_group(group: dict[str, Any], settings: dict[str, Any]) -> dict[Key, list[dict[str, Score]]]:
    """Return the scores of every fit, those of equal numbers of random runs together."""
    splits = {run["split"] for run in group["runs"]}
    fitted = _load(group, "fit", "validate")
    more = _load(group, "subset") if "subset" in splits else None
    curve = fitted.dynamics.values[~fitted.dynamics.validate].mean(axis=0)
    judges = {}
    for setting, split in {"seen": "held_out", "unseen_train": "unseen"}.items():
        if split in splits:
            runs, seed = _load(group, split), [settings["bootstrap_seed"], int(digest([group["group"], setting]), 16)]
            judges[setting] = _Judge(runs, curve, resample_counts(len(runs.runs), settings["bootstrap_samples"], seed))
    scores: dict[Key, list[dict[str, Score]]] = {}
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
    if min(fitted.sizes) > 1:
        scores |= _judge_unseen_tests(group, settings, fitted, judges)
    return scores


UNSEEN_TESTS = {"seen": "unseen_test", "unseen_train": "unseen_both"}
"""Setting of the runs to setting where the tests are unseen, too."""


def _judge_unseen_tests(
    group: dict[str, Any], settings: dict[str, Any], fitted: GroupData, judges: dict[str, _Judge]
) -> dict[Key, list[dict[str, Score]]]:
    """Return the scores of methods that know nothing of the tests that they are judged on.

    Every test is in one of the folds, and simulated by fits on tests of the other folds: on all, or on some at random.
    """
    place = np.concatenate([np.arange(size) for size in fitted.sizes])
    fold = place % settings["folds"]
    # A test's rank among those of its task and of other folds, at random: the first n are known.
    ranks = {number: _ranks(fold != number, fitted.sizes, [settings["seed"], number]) for number in np.unique(fold)}
    most = min(int((fold[:size] != number).sum()) for number in ranks for size in fitted.sizes)
    numbers = [number for number in settings["tests"] if number <= most]
    found: dict[Key, list[dict[str, Score]]] = {}
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
                scores = judge.score(simulated[setting], _by_test(widths[setting], fold), other.start)
                found[Key(UNSEEN_TESTS[setting], name, WHOLE, *varied)] = [scores]
    return found


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


def _score(simulator: Simulator, judge: _Judge) -> dict[str, Score]:
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
