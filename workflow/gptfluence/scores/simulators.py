"""Judge what simulators owe to what: results/scores/simulators.parquet.

Methods are fitted again and judged on the held-out runs

- as variants: with some of their settings replaced, on all fitting runs;
- on fewer and on more fitting runs: on random ones, or, beyond a group's own, on those random subset runs that a method
  chooses itself (`GradientResponse.choose`). Subset runs are collected for judging attribution and measure the loss.

Skill is against the mean curve of all of the group's fitting runs, however many a method is fitted on, so that the mean
curve of few runs has a negative one. Every value is the unweighted mean over test tasks and draws; intervals: bootstrap
over held-out runs, with the same draws for all methods of a group.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.io import digest, write_parquet
from gptfluence.scores import measures
from gptfluence.scores.measures import Score, resample_counts
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.data import GroupData, load_group, read_features
from gptfluence.simulators.registry import make_method
from gptfluence.words import CHOSEN, RANDOM, WHOLE

log = logging.getLogger("gptfluence")

MEASURES = ("all_steps_mse", "skill", "across_run_correlation")

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("group", "scenario", "model", "metric", "method", "variant", "choice")]
    + [("fitting_runs", pa.int32()), ("measure", pa.string())]
    + [(name, pa.float64()) for name in ("value", "low", "high")]
    + [("n", pa.int32())]
)
"""variant: `words.WHOLE`, or what the settings of a variant are called; choice: of the fitting runs, `words.RANDOM` or
`words.CHOSEN`, where their number is varied, else empty; n: how many draws the value is a mean of."""


class _Judge(NamedTuple):
    """What fits are judged on: held-out runs, the mean curve there, how often resamples draw each run."""

    held_out: GroupData
    mean_curve: Array
    counts: Array

    def score(self, simulated: Array) -> dict[str, Score]:
        """Score simulations of the held-out runs, [runs, steps + 1, tests]: the mean over test tasks."""
        measured = self.held_out.dynamics.values[:, 1:]
        reference = np.broadcast_to(self.mean_curve[1:], measured.shape)
        ends = np.cumsum(self.held_out.sizes)
        found: dict[str, list[Score]] = {measure: [] for measure in MEASURES}
        for end, size in zip(ends, self.held_out.sizes, strict=True):
            tests = slice(end - size, end)
            for measure, scores in found.items():
                arrays = [simulated[:, 1:, tests], measured[:, :, tests]]
                arrays += [reference[:, :, tests]] if measure == "skill" else []
                scores.append(getattr(measures, measure)(*arrays, self.counts))
        return {measure: measures.average(scores, len(measured)) for measure, scores in found.items()}


def judge_simulators(spec: dict[str, Any], output: Path) -> None:
    """Fit and judge variants, and methods on fewer and more runs.

    Args:
        spec: groups: a list, one for each group and metric, as `load_group` reads it, with runs of split fit, validate,
            held_out and (where there are any) subset, and methods {method: {settings, features, table, kernels (as
            `fit_simulator` gets them), variants ({name: settings}), learning (bool)}};
            runs (numbers of fitting runs), draws (of each), seed, bootstrap_samples, bootstrap_seed, confidence.
        output: Parquet.

    Raises:
        UserError: a file is missing, damaged or of another plan.
    """
    rows = []
    for group in spec["groups"]:
        for (method, variant, choice, runs), found in _judge_group(group, spec).items():
            for measure in MEASURES:
                score = measures.average([scores[measure] for scores in found], found[0][measure].n_runs)
                low, high = score.interval(spec["confidence"])
                where = [group[name] for name in ("group", "scenario", "model", "metric")]
                values = (*where, method, variant, choice, runs, measure, score.value, low, high, len(found))
                rows.append(dict(zip(SCHEMA.names, values, strict=True)))
        log.info("%s %s: judged", group["group"], group["metric"])
    rows.sort(key=lambda row: [row[name] for name in SCHEMA.names[:9]])
    settings = {key: spec[key] for key in ("draws", "seed", "bootstrap_samples", "bootstrap_seed", "confidence")}
    write_parquet(output, pa.Table.from_pylist(rows, SCHEMA), {"simulators": settings})


Key = tuple[str, str, str, int]
"""Method, variant, choice, number of fitting runs."""


def _judge_group(group: dict[str, Any], settings: dict[str, Any]) -> dict[Key, list[dict[str, Score]]]:
    """Return the scores of every fit, those of equal numbers of random runs together."""
    splits = {run["split"] for run in group["runs"]}
    fitted, held_out = _load(group, "fit", "validate"), _load(group, "held_out")
    more = _load(group, "subset") if "subset" in splits else None
    curve = fitted.dynamics.values[~fitted.dynamics.validate].mean(axis=0)
    seed = [settings["bootstrap_seed"], int(digest([group["group"], "seen"]), 16)]
    judge = _Judge(held_out, curve, resample_counts(len(held_out.runs), settings["bootstrap_samples"], seed))
    scores: dict[Key, list[dict[str, Score]]] = {}
    own = int((~fitted.dynamics.validate).sum())
    for name, method in group["methods"].items():
        features = read_features(group | {key: method[key] for key in ("features", "table", "kernels")})
        for variant, changed in {WHOLE: {}, **method["variants"]}.items():
            simulator = make_method(name, method["settings"] | changed)
            found = _fit_and_score(simulator, fitted.dynamics, fitted.curricula, features, judge)
            scores[name, variant, "", own] = [found]
        if method["learning"]:
            for key, dynamics, curricula in _samples(fitted, more, features, (name, method["settings"]), settings):
                found = _fit_and_score(make_method(name, method["settings"]), dynamics, curricula, features, judge)
                scores.setdefault(key, []).append(found)
    return scores


def _load(group: dict[str, Any], *splits: str) -> GroupData:
    runs = [run for run in group["runs"] if run["split"] in splits]
    return load_group(group | {"runs": runs, "features": None, "table": None, "kernels": None})


def _fit_and_score(
    simulator: Simulator, dynamics: Dynamics, curricula: Curricula, features: Features, judge: _Judge
) -> dict[str, Score]:
    simulator.fit(dynamics, curricula, features)
    first_values = judge.held_out.dynamics.values[:, : simulator.start]
    return judge.score(simulator.simulate(judge.held_out.curricula, first_values))


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
            yield (name, WHOLE, RANDOM, runs), *sample(order, runs)
    beyond = [runs for runs in numbers if runs > len(own)]
    if not beyond:
        return
    simulator = make_method(name, own_settings)
    simulator.fit(fitted.dynamics, fitted.curricula, features)
    chosen = simulator.choose(curricula.of(others), max(beyond) - len(own))
    for runs in beyond if chosen is not None else ():
        yield (name, WHOLE, CHOSEN, runs), *sample(np.concatenate([own, others[chosen]]), runs)
