"""Bars that results must clear, what was measured there, and whether it is met, missed, or not decided."""

from __future__ import annotations

from typing import Any, NamedTuple

from gptfluence.paper.attribution import AS_IT_IS, read_judged
from gptfluence.paper.choices import list_choosers, read_choices
from gptfluence.paper.names import ATTRIBUTION, METHODS, METRICS, SCENARIOS, sort_methods
from gptfluence.report.findings import AT_RANDOM, SIMPLE, attribution_names, simulators_of
from gptfluence.report.grid import NONE, Cell, Grid, Row, Section, print_score, section_grid
from gptfluence.words import AVERAGE, COVERAGES, LEVELS

Rows = list[dict[str, Any]]

MET, MISSED, OPEN = "met", "missed", "not decided"


class Bars(NamedTuple):
    """How many bars are met, missed and not decided, and tables of all of them."""

    counts: dict[str, int]
    grids: list[Grid]


def verdict(row: dict[str, Any], bar: float) -> str:
    """Whether a score (value, low, high) is above a bar: decided by its interval; by its value where it has none."""
    low, high = (row["value"] if row[end] is None else row[end] for end in ("low", "high"))
    return MET if low > bar else MISSED if high <= bar else OPEN


def list_bars(scores: Rows, files: dict[str, str]) -> Bars:
    """Return every bar that the scores can be held against.

    Args:
        scores: the rows of scores.parquet.
        files: paths of the other scores by name: attribution, mislabels, choices.

    Raises:
        UserError: a file is missing or damaged.
    """
    skill, verdicts = _skill(scores)
    rows = [
        *_reported_order(scores),
        *_coverage(scores),
        *_attribution(read_judged(files["attribution"])),
        *_choices(read_choices(files["choices"])),
    ]
    verdicts += [row[-1] for row in rows]
    others = section_grid("Other bars", ("Bar", "Where"), ("Measured", "Against", "Verdict"), rows)
    counts = {word: verdicts.count(word) for word in (MET, MISSED, OPEN)}
    return Bars(counts, [grid for grid in (skill, others) if grid and grid.sections])


def _skill(scores: Rows) -> tuple[Grid | None, list[str]]:
    """Hold every simulator's skill against 0, the mean curve's."""
    groups = simulators_of(scores)
    if not groups:
        return None, []
    cells = {(row["method"], key): row for key, rows in groups.items() for row in rows}
    verdicts, rows = [], []
    for method in sort_methods(method for method, _ in cells):
        shown = []
        for key in groups:
            row = cells.get((method, key))
            if row is None:
                shown.append(Cell(NONE))
                continue
            verdicts.append(verdict(row, 0))
            shown.append(Cell(verdicts[-1], print_score(row), verdicts[-1] == MET))
        rows.append(Row(METHODS.get(method, method), tuple(shown)))
    heads = [f"{SCENARIOS[scenario]}, {model}" for scenario, _, model in groups]
    metrics = [METRICS[metric] for _, metric, _ in groups]
    spans = tuple((name, metrics.count(name)) for name in dict.fromkeys(metrics))
    caption = "Skill above 0: better than the mean curve, which knows nothing of the training examples"
    return Grid(caption, ("", "Method"), spans, tuple(heads), (Section("", tuple(rows)),)), verdicts


def _reported_order(scores: Rows) -> list[tuple[str, ...]]:
    """Hold GPTfluence's error against Simfluence's, as the paper does."""
    cells = {
        (row["scenario"], row["metric"], row["model"], row["method"]): row
        for row in scores
        if (row["task"], row["setting"], row["measure"]) == (AVERAGE, "seen", "all_steps_mse")
        and row["value"] is not None
    }
    rows = []
    for (scenario, metric, model, method), row in cells.items():
        other = cells.get((scenario, metric, model, "simfluence"))
        if method == "gptfluence" and other:
            less = {"value": -row["value"], "low": _minus(row["high"]), "high": _minus(row["low"])}
            rows.append((
                "GPTfluence's all-steps MSE is below Simfluence's, as reported",
                f"{METRICS[metric]}, {SCENARIOS[scenario]}, {model}",
                print_score(row, 3), print_score(other, 3), verdict(less, -other["value"]),
            ))  # fmt: skip
    return rows


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _coverage(scores: Rows) -> list[tuple[str, ...]]:
    """Hold how often intervals of predictions are right against how often they say."""
    rows = []
    for row in scores:
        if (
            row["measure"] not in COVERAGES
            or (row["task"], row["setting"]) != (AVERAGE, "seen")
            or row["value"] is None
        ):
            continue
        level = LEVELS[COVERAGES.index(row["measure"])]
        low, high = (row["value"] if row[end] is None else row[end] for end in ("low", "high"))
        met = low <= level <= high
        where = f"{METHODS.get(row['method'], row['method'])}, {METRICS[row['metric']]}, {SCENARIOS[row['scenario']]}, "
        rows.append((
            f"Intervals of {level:.0%} hold as many measured values", where + row["model"], print_score(row),
            f"{level:.2f}", MET if met else MISSED,
        ))  # fmt: skip
    return sorted(rows, key=lambda row: row[0])


def _attribution(judged: Rows) -> list[tuple[str, ...]]:
    """Hold the best method that takes gradients against the best that takes none."""
    rows = []
    bars = {"lds": "Gradients predict retraining better than texts and trivial rules (LDS)",
            "mrr": "Gradients find stated facts better than texts and trivial rules (MRR)"}  # fmt: skip
    labels = attribution_names(judged)
    for measure, bar in bars.items():
        for group in sorted({row["group"] for row in judged}):
            found = [row for row in judged if (row["group"], row["measure"], row["form"]) == (group, measure, AS_IT_IS)]
            simple = [row for row in found if row["method"] in SIMPLE]
            others = [row for row in found if row["method"] in {**ATTRIBUTION["Gradients"], **ATTRIBUTION["TrackStar"]}]
            if simple and others:
                best, plain = (max(rivals, key=lambda row: row["value"]) for rivals in (others, simple))
                told = (
                    f"{labels[best['method']]} {print_score(best)}",
                    f"{labels[plain['method']]} {print_score(plain)}",
                )
                rows.append((bar, group, *told, verdict(best, plain["value"])))
    return rows


def _choices(judged: Rows) -> list[tuple[str, ...]]:
    """Hold chosen training data against random choices."""
    rows = []
    for row in judged:
        if row["measure"] in ("gain", "target_gain") and row["method"] not in AT_RANDOM:
            labels = {who: label for who, _, label in list_choosers(judged)}
            tests = "tests it serves" if row["measure"] == "target_gain" else "other tests"
            where = f"{labels[row['method'], row['order']]}, {row['group']}, {tests}"
            bar = "Chosen data lowers the loss more than random data"
            rows.append((bar, where, print_score(row, 2), "0", verdict(row, 0)))
    return rows
