"""Simulators taken apart: on unseen data, as variants, under other schedules, on fewer and more fitting runs."""

from __future__ import annotations

from itertools import groupby, product
from typing import Any, NamedTuple

from gptfluence.io import read_provenance
from gptfluence.paper.averages import Rows, average_groups
from gptfluence.paper.names import METHODS, METRICS, SCENARIOS, SETTINGS, sort_methods
from gptfluence.paper.simulators import read_learning, read_schedules, read_unseen, read_variants
from gptfluence.paper.tables.page import Block, Page, is_best, make_lines
from gptfluence.scores.words import GIVEN, OWN_GRADIENTS, OWN_LOSSES
from gptfluence.words import (
    AVERAGE,
    CHOSEN_RUNS,
    INTERVAL,
    OWN,
    RUNS,
    SCHEDULE_SEEN,
    SCHEDULE_UNSEEN,
    TESTS,
    WHOLE,
)

TITLE = "Simulators taken apart"

COLUMNS = (
    *("scenario", "metric", "setting", "method", "variant", "varied", "number", "measure"),
    *("value", "low", "high", "n", "bold"),
)
"""Columns of the CSV. Values are means over the groups of a scenario; n: of how many groups; variant: `whole` or the
name of settings; varied: what of the fit, and its number; bold: best of a column, or tied with it."""

_LEARNING = {"Fitting runs": (RUNS, CHOSEN_RUNS), "Measured tests": (TESTS,), "Measured steps": (INTERVAL,)}
"""What the blocks of learning curves are called, and what is varied in each."""

_MEASURES = {"skill": "Skill", "across_run_correlation": "Across-run r"}
_SCHEDULE_MEASURES = {"all_steps_mse": "MSE", **_MEASURES}


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out the table; `spec` as for `write_table`, with simulators (path of the scores).

    Raises:
        UserError: the scores are missing or damaged.
    """
    variants = _average(read_variants(spec["simulators"]))
    learning = _average(read_learning(spec["simulators"]))
    unseen = _average(read_unseen(spec["simulators"]))
    schedules = _average(read_schedules(spec["simulators"]))
    column = ("scenario", "metric", "setting", "measure")
    known = [row for row in [*variants, *unseen] if row["variant"] not in GIVEN]
    for row in [*variants, *unseen]:
        same = [other for other in known if all(other[key] == row[key] for key in column)]
        row["bold"] = row["variant"] not in GIVEN and is_best(row, same)
    for row in schedules:
        same = [other for other in schedules if all(other[key] == row[key] for key in (*column, "variant"))]
        row["bold"] = is_best(row, same)
    for row in learning:
        row["bold"] = False
    blocks = []
    for metric in (metric for metric in METRICS if any(row["metric"] == metric for row in unseen)):
        chosen = [row for row in unseen if row["metric"] == metric]
        blocks.append(_block(f"Unseen data, {METRICS[metric]}", f"unseen_{metric}", chosen, _setting_names(chosen)))
    for metric in (metric for metric in METRICS if any(row["metric"] == metric for row in variants)):
        chosen = [row for row in variants if row["metric"] == metric]
        blocks.append(_block(f"Variants, {METRICS[metric]}", f"variants_{metric}", chosen, _variant_names(chosen)))
    for metric in (metric for metric in METRICS if any(row["metric"] == metric for row in schedules)):
        chosen = [row for row in schedules if row["metric"] == metric]
        blocks.append(_schedules_block(f"Schedules, {METRICS[metric]}", f"schedules_{metric}", chosen))
    for (title, kinds), metric in product(_LEARNING.items(), METRICS):
        chosen = [row for row in learning if row["metric"] == metric and row["varied"] in kinds]
        if chosen:
            blocks.append(
                _block(f"{title}, {METRICS[metric]}", f"{kinds[0]}_{metric}", chosen, _learning_names(chosen))
            )
    frame = [{name: row[name] for name in COLUMNS} for row in [*unseen, *variants, *schedules, *learning]]
    notes = _notes(spec, variants, learning, unseen, schedules)
    return Page("table_simulators", TITLE, TITLE, notes, blocks, COLUMNS, frame)


def _average(rows: Rows) -> Rows:
    """Return the means over the groups of a scenario; none of what not all groups of the scenario have."""
    names = ("scenario", "metric", "setting", "method", "variant", "varied", "number", "measure")

    def key(row: dict[str, Any]) -> list[Any]:
        return [row[name] for name in names]

    groups = {(row["scenario"], row["metric"]): set() for row in rows}
    for row in rows:
        groups[row["scenario"], row["metric"]].add(row["group"])
    averages = []
    for values, parts in ((values, list(parts)) for values, parts in groupby(sorted(rows, key=key), key)):
        if len(parts) < len(groups[values[0], values[1]]):
            continue
        averages.append(dict(zip(names, values, strict=True)) | average_groups(parts))
    return averages


def _variant_names(rows: Rows) -> dict[Line, str]:
    """Return what the lines are called, in order: methods as in all tables, each behind itself its variants."""
    names = {}
    for method in sort_methods(row["method"] for row in rows):
        found = {_line(row) for row in rows if row["method"] == method}
        own = sorted(found, key=lambda line: (line.variant != WHOLE, line.variant))
        for line in own:
            names[line] = "whole" if line.variant == WHOLE else line.variant.replace("_", " ")
    return names


def _setting_names(rows: Rows) -> dict[Line, str]:
    """Return what the lines are called, in order: by what is unseen, and there by method."""
    names = {}
    for setting, label in SETTINGS.items():
        found = [row for row in rows if row["setting"] == setting]
        for method in sort_methods(row["method"] for row in found):
            names |= {_line(row): label for row in found if row["method"] == method}
    return names


def _learning_names(rows: Rows) -> dict[Line, str]:
    labels = {RUNS: "{} runs", CHOSEN_RUNS: "{} runs, chosen", TESTS: "{} tests a task", INTERVAL: "every {} steps"}
    names = {}
    for method in sort_methods(row["method"] for row in rows):
        found = {_line(row) for row in rows if row["method"] == method}
        for line in sorted(found, key=lambda line: (line.number, line.varied == CHOSEN_RUNS)):
            names[line] = labels[line.varied].format(line.number)
    return names


class Line(NamedTuple):
    """What a line of a block is of."""

    setting: str
    method: str
    variant: str
    varied: str
    number: int


def _line(row: dict[str, Any]) -> Line:
    return Line(*(row[name] for name in Line._fields))


def _schedules_block(title: str, key: str, rows: Rows) -> Block:
    """Lay out one fit of several schedules: by schedule and whether the fit has seen it, the mean over them first."""
    schedules = sorted({row["variant"] for row in rows}, key=lambda name: (name != AVERAGE, name != OWN, name))
    labels = {name: name.replace("_", " ") for name in schedules}
    labels |= {AVERAGE: "mean over schedules", OWN: "the scenario's own"}
    names = {}
    for schedule, setting in product(schedules, (SCHEDULE_SEEN, SCHEDULE_UNSEEN)):
        found = [row for row in rows if (row["variant"], row["setting"]) == (schedule, setting)]
        for method in sort_methods(row["method"] for row in found):
            section = f"{labels[schedule]}, {SETTINGS[setting]}"
            names |= {_line(row): (section, METHODS.get(method, method)) for row in found if row["method"] == method}
    return _lay_out(title, key, "Schedule", rows, names, _SCHEDULE_MEASURES)


def _block(title: str, key: str, rows: Rows, names: dict[Line, str]) -> Block:
    sections = {line: (METHODS.get(line.method, line.method), name) for line, name in names.items()}
    return _lay_out(title, key, "Simulator", rows, sections, _MEASURES)


def _lay_out(
    title: str, key: str, head: str, rows: Rows, names: dict[Line, tuple[str, str]], measures: dict[str, str]
) -> Block:
    """Lay out a block; names: section and name of each line; measures: what the columns are called."""
    scenarios = [scenario for scenario in SCENARIOS if any(row["scenario"] == scenario for row in rows)]
    columns = [(scenario, measure) for scenario in scenarios for measure in measures]
    cells = {(_line(row), row["scenario"], row["measure"]): row for row in rows}
    lines = make_lines(
        ((*name, [cells.get((line, *column)) for column in columns]) for line, name in names.items()),
        _cell,
    )
    heads = tuple((SCENARIOS[scenario].capitalize(), measures[measure]) for scenario, measure in columns)
    return Block(title, key, head, heads, lines)


def _cell(row: dict[str, Any] | None) -> str:
    """Print `value [low, high]`."""
    if row is None:
        return "–"
    form = ".4f" if row["measure"] == "all_steps_mse" else ".2f"
    ends = f" [{row['low']:{form}}, {row['high']:{form}}]" if row["low"] is not None and row["high"] is not None else ""
    return f"{row['value']:{form}}{ends}"


def _notes(spec: dict[str, Any], variants: Rows, learning: Rows, unseen: Rows, schedules: Rows) -> list[str]:
    if not (variants or learning or unseen or schedules):
        return [f"Scale {spec['scale']}: no method has variants or learning curves, or is judged on unseen data."]
    settings = read_provenance(spec["simulators"])["simulators"]
    notes = [
        f"Scale {spec['scale']}. Means over the groups of a scenario, of averages over test tasks, on held-out runs; "
        f"in brackets: {settings['confidence']:.0%} bootstrap interval. Skill is over the mean curve of all fitting "
        "runs.",
    ]
    if unseen:
        notes.append(
            "Unseen data: training examples of a pool that no fitting run drew from; tests that no fit has read, in "
            f"{settings['folds']} parts of each task; or both. Of an unseen test the mean curve is not known: there "
            "skill is over the curve that its gradients predict."
        )
    if variants:
        notes.append("Variants: a method with some of its settings replaced (scores.variants in params.yaml). "
                     "Bold: the best of a column, and those within its interval.")  # fmt: skip
    if any(row["variant"] == OWN_GRADIENTS for row in variants):
        notes.append("Own gradients: given, in place of kernels, what gradients say of each step of the very run that "
                     "is simulated, which cannot be had without training it: a ceiling.")  # fmt: skip
    if any(row["variant"] == OWN_LOSSES for row in variants):
        notes.append("Own losses: the mean curve, moved by what the very run's loss differs by from its own mean "
                     "curve, times a number for each test: what one could say of sampled texts who knew the losses of "
                     "all steps: a ceiling, too.")  # fmt: skip
    if schedules:
        notes.append(
            "Schedules: other learning rates, batches, and courses of the rate, in one fit with the scenario's own; or "
            "in a fit without a run of that schedule. Skill is over the mean curve of the schedule's own fitting runs, "
            "which a fit without them does not know. Optimiser time: the learning rates added up."
        )
    if learning:
        notes.append(
            f"Fitting runs: a method fitted on fewer or more runs, means over {settings['draws']} random choices. "
            "Beyond those of the plan they are runs on random subsets; chosen: those that the method asks for. "
            "Measured tests: fitted on some tests of each task, judged on others, as unseen ones. Measured steps: "
            "fitted on runs that are measured at some steps, with straight lines between, judged at all."
        )
    return notes
