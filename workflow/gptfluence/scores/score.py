"""Judge simulations against the measured runs: all of results/scores, from which tables and figures are made."""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.io import digest, write_json, write_parquet, write_text
from gptfluence.scores import measures
from gptfluence.scores.curves import ExampleRun, write_curves
from gptfluence.scores.measures import Score
from gptfluence.scores.repeats import read_repeats
from gptfluence.scores.simulations import Simulations, read_simulations
from gptfluence.scores.words import CEILING
from gptfluence.words import AVERAGE, COVERAGES, MEASURED

LOG = logging.getLogger("gptfluence")

MEASURES = ("all_steps_mse", "all_steps_mae", "final_step_spearman", "skill", "across_run_correlation")
SUMMARY_MEASURES = ("all_steps_mse", "final_step_spearman", "skill", "across_run_correlation")

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("scenario", "model", "task", "metric", "method", "setting", "measure")]
    + [(name, pa.float64()) for name in ("value", "std_over_trajectories", "std_over_runs", "low", "high")]
    + [(name, pa.int32()) for name in ("n_runs", "n_examples")]
)


Scores = dict[tuple[str, str, str], Score]
"""By task, method and measure."""


def score_simulations(
    spec: dict[str, Any], scores_output: Path, curves_output: Path, metrics_output: Path, summary_output: Path
) -> None:
    """Score every method on every task, and on the average of the tasks; keep one run's trajectories for figures.

    Args:
        spec: groups {group: {scenario, model, runs {run_id: seen | unseen_train}}}, files [{group, metric, path,
            repeats (see `read_repeats`)}], bootstrap_samples, bootstrap_seed, confidence.
        scores_output: Parquet, one row for each (scenario, model, task, metric, method, setting, measure). A row
            whose task is `average` is the unweighted mean over the tasks, where all of them have a value. Where runs
            are repeated, the method `scores.words.CEILING` is one that knows all but what is sampled.
        curves_output: Parquet, the trajectories of each group's first held-out run and first unseen run (by name); see
            `scores.curves`.
        metrics_output: JSON {scenario: {model: {metric: {method: {measure: average over tasks}}}}}, seen runs only.
        summary_output: CSV, the same numbers, a line for each (scenario, model, metric, method), named by these.

    Raises:
        UserError: a file is missing, damaged or incomplete, or holds other runs than its group.
    """
    # (scenario, model, metric, setting) -> (task, method, measure) -> score
    cells: dict[tuple[str, ...], Scores] = defaultdict(dict)
    sizes: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)  # ... -> task -> test examples
    runs: dict[tuple[str, ...], set[str]] = defaultdict(set)
    curves: dict[ExampleRun, Simulations] = {}
    for file in spec["files"]:
        group = spec["groups"][file["group"]]
        simulations = read_simulations(file["path"])
        if set(simulations.runs) != set(group["runs"]):
            odd = sorted(set(simulations.runs) ^ set(group["runs"]))
            raise UserError(
                f"{file['path']}: does not hold the runs of {file['group']} (differing: {', '.join(odd[:3])}). "
                "Delete it and run snakemake again."
            )
        for setting in sorted(set(group["runs"].values())):
            members = [run for run in simulations.runs if group["runs"][run] == setting]
            shown = ExampleRun(group["scenario"], group["model"], file["group"], file["metric"], setting, members[0])
            curves[shown] = simulations.single(members[0])
            # Runs of one group share their draws over tasks, metrics and methods, so that those can be compared and
            # averaged; runs of different groups are independent.
            seed = [spec["bootstrap_seed"], int(digest([file["group"], setting]), 16)]
            counts = measures.resample_counts(len(members), spec["bootstrap_samples"], seed)
            key = (group["scenario"], group["model"], file["metric"], setting)
            scores = _score_file(file, simulations, members, counts)
            if file["repeats"] and setting == "seen":
                again = measures.resample_counts(len(file["repeats"]), spec["bootstrap_samples"], seed)
                scores |= _score_noise(file, simulations, members, counts, again, scores, spec["confidence"])
            cells[key] |= scores
            runs[key] |= set(members)
            for task in np.unique(simulations.tasks):
                sizes[key][str(task)] = int((simulations.tasks == task).sum())

    rows = []
    for (scenario, model, metric, setting), scores in cells.items():
        key = (scenario, model, metric, setting)
        for (task, method, measure), score in {**scores, **_averages(scores, len(runs[key]))}.items():
            low, high = score.interval(spec["confidence"])
            n_examples = sum(sizes[key].values()) if task == AVERAGE else sizes[key][task]
            rows.append(
                dict(zip(SCHEMA.names[:7], (scenario, model, task, metric, method, setting, measure), strict=True))
                | {"value": score.value, "low": low, "high": high, "n_runs": score.n_runs, "n_examples": n_examples}
                | {name: getattr(score, name) for name in ("std_over_trajectories", "std_over_runs")}
            )
    rows.sort(key=lambda row: [row[name] for name in SCHEMA.names[:7]])
    settings = {key: spec[key] for key in ("bootstrap_samples", "bootstrap_seed", "confidence")}
    summary = _summary(rows)
    write_parquet(scores_output, pa.Table.from_pylist(rows, SCHEMA), {"scores": settings})
    write_curves(curves_output, curves)
    write_json(metrics_output, summary)
    write_text(summary_output, _summary_lines(summary))


def _score_file(
    file: dict[str, Any], simulations: Simulations, members: list[str], counts: NDArray[np.float64]
) -> Scores:
    """Score one file's methods on the runs `members`."""
    run = [simulations.runs.index(name) for name in members]
    start = dict(zip(simulations.methods, simulations.starts, strict=True))
    scores = {}
    for task in np.unique(simulations.tasks):
        tests = simulations.tasks == task
        values = {m: simulations.of(m)[run][:, :, tests].astype(float) for m in simulations.methods}
        truth = values.pop(MEASURED)
        # Released runs have gaps: steps that one of the runs lacks are not judged.
        judged = measures.whole_steps(truth)
        if not judged.all():
            LOG.info("%s: %s: %d of %d steps are not measured in all runs, not judged",
                     file["path"], task, (~judged).sum(), len(judged))  # fmt: skip
        if not np.isfinite(truth[:, judged]).all():
            LOG.warning("%s: measured values of %s are missing or not finite: no scores", file["path"], task)
        for method, predicted in values.items():
            first = start[method]
            on = np.flatnonzero(judged)
            on = on[on >= first]
            mean_curve = values["mean_curve"][:, on] if start.get("mean_curve", first + 1) <= first else None
            if mean_curve is None:
                LOG.warning("%s: %s: no mean curve on the steps of %s: no skill", file["path"], task, method)
            if not np.isfinite(predicted[:, first:]).all():
                LOG.warning("%s: %s: %s is not finite everywhere: no scores", file["path"], task, method)
            p, m = predicted[:, on], truth[:, on]
            found = {name: getattr(measures, name)(p, m, counts) for name in MEASURES if name != "skill"}
            if mean_curve is None:
                found["skill"] = Score(None, np.full(len(counts), np.nan), len(members))
            else:
                found["skill"] = measures.skill(p, m, mean_curve, counts)
            for level, half_widths in zip(COVERAGES, simulations.half_widths.get(method, ()), strict=False):
                found[level] = measures.coverage(p, m, half_widths[run][:, on][:, :, tests].astype(float), counts)
            scores |= {(str(task), method, name): score for name, score in found.items()}
    return scores


def _score_noise(
    file: dict[str, Any],
    simulations: Simulations,
    members: list[str],
    counts: NDArray[np.float64],
    repeat_counts: NDArray[np.float64],
    scores: Scores,
    confidence: float,
) -> Scores:
    """Score a simulator that knows all but what is sampled, and which share of its skill the others have.

    Args:
        counts: [resamples, members].
        repeat_counts: [resamples, repeated runs], of as many draws as there are of them.
        scores: of the file's methods on `members`.
    """
    names, sizes = np.unique(simulations.tasks, return_counts=True)
    once, again = read_repeats(file["repeats"], file["metric"], tuple(names.tolist()), tuple(sizes.tolist()))
    repeated = [pair[0]["run_id"] for pair in file["repeats"]]
    run = [simulations.runs.index(name) for name in repeated]
    drawn = counts[:, [members.index(name) for name in repeated]]
    found: Scores = {}
    for task in names.tolist():
        tests = simulations.tasks == task
        both = once[:, 1:, tests], again[:, 1:, tests]
        found[task, CEILING, "all_steps_mse"] = measures.sampling_noise(*both, drawn)
        found[task, CEILING, "across_run_correlation"] = measures.correlation_ceiling(*both, repeat_counts)
        for method, first in zip(simulations.methods, simulations.starts, strict=True):
            if method == MEASURED or scores[task, method, "skill"].value is None:
                continue
            curve = simulations.of("mean_curve")[run][:, first:, tests].astype(float)
            ceiling = measures.skill_ceiling(once[:, first:, tests], again[:, first:, tests], curve, drawn)
            if method == "mean_curve":
                found[task, CEILING, "skill"] = ceiling
            share = measures.explained_share(scores[task, method, "skill"], ceiling, confidence)
            found[task, method, "explained_share"] = share
    return found


def _averages(scores: Scores, n_runs: int) -> Scores:
    """Average each method's measures over all tasks that any method is scored on."""
    tasks = sorted({task for task, _, _ in scores})
    pairs = sorted({(method, measure) for _, method, measure in scores})
    return {
        (AVERAGE, method, measure): measures.average([scores.get((t, method, measure)) for t in tasks], n_runs)
        for method, measure in pairs
    }


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Nest the averages over tasks of the seen runs, six digits each."""
    summary: dict[str, Any] = {}
    for row in rows:
        if row["task"] != AVERAGE or row["setting"] != "seen" or row["measure"] not in SUMMARY_MEASURES:
            continue
        node = summary
        for name in ("scenario", "model", "metric", "method"):
            node = node.setdefault(row[name], {})
        node[row["measure"]] = None if row["value"] is None else float(f"{row['value']:.6g}")
    return summary


def _summary_lines(summary: dict[str, Any]) -> str:
    """Return the summary as CSV, one method a line, its averages as columns; empty where there is none."""
    text = StringIO()
    writer = csv.DictWriter(text, ["name", *SUMMARY_MEASURES], lineterminator="\n")
    writer.writeheader()
    for scenario, models in summary.items():
        for model, metrics in models.items():
            for metric, methods in metrics.items():
                for method, averages in methods.items():
                    writer.writerow({"name": f"{scenario} {model} {metric} {method}"} | averages)
    return text.getvalue()
