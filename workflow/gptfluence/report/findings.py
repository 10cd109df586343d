"""What the scores say, in sentences: each stands only where numbers bear it out, and names them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gptfluence.paper.attribution import AS_IT_IS, read_judged, read_mislabels
from gptfluence.paper.attribution import CEILING as NOISE
from gptfluence.paper.averages import average_groups
from gptfluence.paper.choices import list_choosers, read_choices
from gptfluence.paper.names import ATTRIBUTION, METHODS, METRICS, REPLAYED, SCENARIOS, SETTINGS, TASKS, list_attribution
from gptfluence.paper.simulators import read_learning, read_unseen, read_variants
from gptfluence.report.grid import counted, listed, print_score
from gptfluence.scores.words import CEILING, OWN_GRADIENTS, OWN_LOSSES
from gptfluence.words import AVERAGE, CHOSEN_RUNS, COVERAGES, LEVELS, RANDOM, RUNS, WHOLE

Rows = list[dict[str, Any]]

TRIVIAL = ("persistence", "global_ar1", "mean_curve", "predicted_curve")
"""Methods that know nothing of the training examples, or nothing but what every run shares."""

AT_RANDOM = (RANDOM, "best_random")
"""Choices of training data by no method."""

SIMPLE = (*ATTRIBUTION["Trivial"], *ATTRIBUTION["Text"])
"""Attribution that takes no gradient of the trained model."""

CLOSE = 0.05
"""By how much a coverage may miss its level before it is told."""


class Finding(NamedTuple):
    """Sentences on one subject."""

    subject: str
    sentences: list[str]


def find(scores: Rows, files: dict[str, str]) -> list[Finding]:
    """Return what the scores say, subjects without anything to say left out.

    Args:
        scores: the rows of scores.parquet.
        files: paths of the other scores by name: simulators, attribution, mislabels, choices.

    Raises:
        UserError: a file is missing or damaged.
    """
    found = [
        Finding("Simulators against the mean curve", against_the_mean_curve(scores)),
        Finding("Where a simple baseline wins", simple_wins(scores)),
        Finding("Noise of sampled texts", noise(scores)),
        Finding("Unseen data", unseen(scores, read_unseen(files["simulators"]))),
        Finding("Intervals of predictions", coverage(scores)),
        Finding("Parts of simulators, and fitting runs", parts(files["simulators"])),
        Finding("Attribution", attribution(read_judged(files["attribution"]))),
        Finding("Wrong labels", wrong_labels(read_mislabels(files["mislabels"]))),
        Finding("Choosing data", choosing(read_choices(files["choices"]))),
    ]
    return [finding for finding in found if finding.sentences]


def simulators_of(scores: Rows, setting: str = "seen") -> dict[tuple[str, str, str], Rows]:
    """Return the skill of every simulator, averaged over tasks, by scenario, metric and model, the best first.

    Baselines are none, nor methods that are given gradients at the weights of the run that they predict.
    """
    groups: dict[tuple[str, str, str], Rows] = {}
    for row in scores:
        known = row["task"] == AVERAGE and row["setting"] == setting and row["measure"] == "skill"
        if known and row["value"] is not None and row["method"] not in (*TRIVIAL, *REPLAYED, CEILING):
            groups.setdefault((row["scenario"], row["metric"], row["model"]), []).append(row)
    order = [(scenario, metric) for metric in METRICS for scenario in SCENARIOS]
    return {
        key: sorted(groups[key], key=lambda row: -row["value"])
        for key in sorted(groups, key=lambda key: (order.index(key[:2]), key[2]))
    }


def place(scenario: str, metric: str, model: str) -> str:
    """Return where something was measured."""
    return f"{METRICS[metric]} in {SCENARIOS[scenario]} of {model}"


def named(rows: Rows) -> str:
    """List methods with their scores."""
    return listed([f"{METHODS.get(row['method'], row['method'])} {print_score(row)}" for row in rows])


def above(row: dict[str, Any], bar: float = 0.0) -> bool:
    """Whether a score's whole interval lies above a bar."""
    return row["low"] is not None and row["low"] > bar


def below(row: dict[str, Any], bar: float = 0.0) -> bool:
    """Whether a score's whole interval lies below a bar."""
    return row["high"] is not None and row["high"] < bar


def against_the_mean_curve(scores: Rows) -> list[str]:
    """Say who beats the mean curve, where, and on which tasks the best one does not."""
    groups = simulators_of(scores)
    if not groups:
        return []
    won = [key for key, rows in groups.items() if any(above(row) for row in rows)]
    sentences = [
        f"A simulator beats the mean curve, its whole interval of skill above 0, in {len(won)} of "
        f"{counted(len(groups), 'combination')} of metric, scenario and model."
    ]
    methods = list(dict.fromkeys(row["method"] for rows in groups.values() for row in rows))
    for method in (name for name in METHODS if name in methods):
        rows = [row for found in groups.values() for row in found if row["method"] == method]
        wins, losses = sum(map(above, rows)), sum(map(below, rows))
        sentences.append(
            f"{METHODS[method]} is above the mean curve in {wins}, below it in {losses}, and not told apart from it in "
            f"{len(rows) - wins - losses} of {len(rows)}."
        )
    for key, rows in groups.items():
        winners = [row for row in rows if above(row)]
        where = place(*key)
        if not winners:
            sentences.append(f"{_upper(where)}: no simulator beats the mean curve; nearest is {named(rows[:1])}.")
            continue
        sentences.append(f"{_upper(where)}: above the mean curve {_verb(winners)} {named(winners)}.")
        best = winners[0]
        tasks = [
            row
            for row in scores
            if (row["scenario"], row["metric"], row["model"]) == key
            and (row["setting"], row["measure"], row["method"]) == ("seen", "skill", best["method"])
            and row["task"] != AVERAGE
            and row["value"] is not None
            and not above(row)
        ]
        if tasks:
            told = listed([f"{TASKS.get(row['task'], row['task'])} ({print_score(row)})" for row in tasks])
            method = METHODS.get(best["method"], best["method"])
            sentences.append(f"{_upper(where)}: on single tasks, {method} is not above it on {told}.")
    return sentences


def simple_wins(scores: Rows) -> list[str]:
    """Say where a method that knows nothing of the training examples has the lowest error."""
    sentences = []
    cells: dict[tuple[str, str, str], Rows] = {}
    for row in scores:
        known = row["task"] == AVERAGE and row["setting"] == "seen" and row["measure"] == "all_steps_mse"
        if known and row["value"] is not None and row["method"] not in (*REPLAYED, CEILING):
            cells.setdefault((row["scenario"], row["metric"], row["model"]), []).append(row)
    for key, rows in cells.items():
        best = min(rows, key=lambda row: row["value"])
        others = [row for row in rows if row["method"] not in TRIVIAL]
        if best["method"] in TRIVIAL and others:
            second = min(others, key=lambda row: row["value"])
            sentences.append(
                f"{_upper(place(*key))}: {METHODS[best['method']]} has the lowest all-steps MSE, "
                f"{print_score(best, 3)}; the best simulator is {METHODS.get(second['method'], second['method'])} with "
                f"{print_score(second, 3)}."
            )
    return sentences


def noise(scores: Rows) -> list[str]:
    """Say how much of what noise leaves simulators explain."""
    sentences = []
    shares = [row for row in scores if row["measure"] == "explained_share" and row["task"] == AVERAGE]
    shares = [row for row in shares if row["setting"] == "seen" and row["value"] is not None]
    keys = list(dict.fromkeys((row["scenario"], row["metric"], row["model"]) for row in shares))
    for key in keys:
        rows = [row for row in shares if (row["scenario"], row["metric"], row["model"]) == key]
        best = max((row for row in rows if row["method"] not in TRIVIAL), key=lambda row: row["value"], default=None)
        if best is None:
            continue
        ceiling = [
            row
            for row in scores
            if (row["scenario"], row["metric"], row["model"], row["task"]) == (*key, AVERAGE)
            and (row["method"], row["measure"]) == (CEILING, "skill")
            and row["value"] is not None
        ]
        most = f"; the most that noise allows is a skill of {print_score(ceiling[0])}" if ceiling else ""
        told = "no simulator explains a hundredth of what is not noise"
        if best["value"] >= 0.01:
            method = METHODS.get(best["method"], best["method"])
            told = f"of what is not noise {method} explains the largest share, {best['value']:.0%}"
        sentences.append(f"{_upper(place(*key))}: {told}{most}.")
    return sentences


def unseen(scores: Rows, apart: Rows) -> list[str]:
    """Say what is left of skill on unseen training examples, tests, or both."""
    sentences = []
    seen = {key: {row["method"]: row for row in rows} for key, rows in simulators_of(scores).items()}
    for key, rows in simulators_of(scores, "unseen_train").items():
        best = rows[0]
        same = seen.get(key, {}).get(best["method"])
        beside = f", {print_score(same)} on seen ones" if same else ""
        sentences.append(
            f"{_upper(place(*key))}, unseen training examples: highest skill has {named([best])}{beside}"
            f"{'' if above(best) else '; it is not told apart from the mean curve'}."
        )
    for setting in ("unseen_test", "unseen_both"):
        cells: dict[tuple[str, str], dict[str, Rows]] = {}
        for row in apart:
            if (row["setting"], row["measure"]) == (setting, "skill") and row["method"] not in TRIVIAL:
                cells.setdefault((row["metric"], row["scenario"]), {}).setdefault(row["method"], []).append(row)
        for (metric, scenario), methods in cells.items():
            rows = [{"method": name} | average_groups(parts) for name, parts in methods.items()]
            best = max(rows, key=lambda row: row["value"])
            verb = "beats" if above(best) else "is below" if below(best) else "is not told apart from"
            sentences.append(
                f"{_upper(METRICS[metric])} in {SCENARIOS[scenario]}, {SETTINGS[setting]}: {named([best])} is the best "
                f"and {verb} the curve that a test's gradients predict."
            )
    return sentences


def coverage(scores: Rows) -> list[str]:
    """Say where intervals hold fewer or more measured values than they promise."""
    sentences = []
    for name, level in zip(COVERAGES, LEVELS, strict=True):
        rows = [row for row in scores if row["measure"] == name and row["task"] == AVERAGE and row["value"] is not None]
        if not rows:
            continue
        off = [row for row in rows if abs(row["value"] - level) > CLOSE]
        sentences.append(
            f"Intervals of {level:.0%} hold {min(row['value'] for row in rows):.0%} to "
            f"{max(row['value'] for row in rows):.0%} of the measured values; {len(off)} of {len(rows)} combinations "
            f"of method, metric, model and data miss their level by more than {100 * CLOSE:.0f} points."
        )
        if off:
            worst = max(off, key=lambda row: abs(row["value"] - level))
            sentences.append(
                f"Farthest is {METHODS.get(worst['method'], worst['method'])} on "
                f"{place(worst['scenario'], worst['metric'], worst['model'])}, {SETTINGS[worst['setting']]}: "
                f"{worst['value']:.0%}."
            )
    return sentences


def parts(simulators: str) -> list[str]:
    """Say which variants beat the whole method, and whether runs that a method chose are better than random ones."""
    sentences = []
    for where, rows in _skills(read_variants(simulators)).items():
        for method in dict.fromkeys(row["method"] for row in rows):
            own = {row["variant"]: row for row in rows if row["method"] == method}
            whole = own.pop(WHOLE, None)
            ceiling = own.pop(OWN_GRADIENTS, None)
            moved = own.pop(OWN_LOSSES, None)
            if moved is not None:
                sentences.append(
                    f"{where}: {METHODS.get(method, method).lower()} moved by the losses of the very run would have "
                    f"{print_score(moved)}."
                )
            if whole is not None and ceiling is not None:
                sentences.append(
                    f"{where}: {METHODS.get(method, method)} has {print_score(whole)}; given gradients of every step "
                    f"of the very run that it simulates, it would have {print_score(ceiling)}."
                )
            if whole is None or not own:
                continue
            better = [row for row in own.values() if above(row, whole["value"])]
            if better:
                method = METHODS.get(method, method)
                told = listed([f"{row['variant'].replace('_', ' ')} {print_score(row)}" for row in better])
                number = f"{len(better)} of {counted(len(own), 'variant')}"
                whole_value = f"the method as it is ({print_score(whole)})"
                sentences.append(
                    f"{where}: {number} of {method} have their whole interval above {whole_value}: {told}."
                )
    if any(" order " in sentence for sentence in sentences):
        sentences.append("A simulator of Markov order n is given the first n values of the very run, others only one.")
    for where, rows in _skills(read_learning(simulators)).items():
        points = {(row["method"], row["varied"], row["number"]): row for row in rows if row["setting"] == "seen"}
        both = [(row, points[method, RUNS, number]) for (method, varied, number), row in points.items()
                if varied == CHOSEN_RUNS and (method, RUNS, number) in points]  # fmt: skip
        if both:
            better = sum(chosen["value"] > at_random["value"] for chosen, at_random in both)
            sentences.append(
                f"{where}: fitted on runs that the method chose it has more skill than on as many random ones in "
                f"{better} of {counted(len(both), 'comparison')}."
            )
    return sentences


def _skills(rows: Rows) -> dict[str, Rows]:
    """Return the means of skill over the groups of a scenario, by the words for metric and scenario."""
    cells: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        if row["measure"] == "skill":
            names = ("metric", "scenario", "setting", "method", "variant", "varied", "number")
            cells.setdefault(tuple(row[name] for name in names), []).append(row)
    found: dict[str, Rows] = {}
    for (metric, scenario, setting, method, variant, varied, number), members in cells.items():
        row = {"setting": setting, "method": method, "variant": variant, "varied": varied, "number": number}
        where = f"{_upper(METRICS[metric])} in {SCENARIOS[scenario]}"
        found.setdefault(where, []).append(row | average_groups(members))
    return found


def attribution_names(judged: Rows) -> dict[str, str]:
    """Return what methods of attribution are called where they stand alone."""
    named = list_attribution(row["method"] for row in judged)
    return {name: f"{family} {label}" if label.startswith("without") else label for name, family, label in named}


def attribution(judged: Rows) -> list[str]:
    """Say which attribution predicts retraining and finds facts best, and where a simple one is as good."""
    sentences = []
    names = attribution_names(judged)
    measures = {"lds": "predicts retraining best (LDS)", "mrr": "finds the examples that state a fact best (MRR)",
                "tail_patch": "picks the examples whose next step helps most (tail-patch)"}  # fmt: skip
    for group in sorted({row["group"] for row in judged}):
        for measure, does in measures.items():
            rows = [row for row in judged if (row["group"], row["measure"], row["form"]) == (group, measure, AS_IT_IS)]
            ceiling = [row for row in rows if row["method"] == NOISE]
            # The row tail_patch ranks by what is measured, and the replays know the run that is judged.
            rows = [row for row in rows if row["method"] not in (NOISE, "tail_patch", *ATTRIBUTION["Replayed"])]
            simple = [row for row in rows if row["method"] in SIMPLE]
            if not simple or len(simple) == len(rows):
                continue
            best, plain = (max(found, key=lambda row: row["value"]) for found in (rows, simple))
            most = f"; noise allows {print_score(ceiling[0])}" if ceiling else ""
            told = f"{group}: {names[best['method']]} {does}, {print_score(best)}{most}"
            if best is plain:
                other = max((row for row in rows if row not in simple), key=lambda row: row["value"])
                told += f"; no gradient is needed for it, the best method with them is {names[other['method']]} with "
                told += print_score(other)
            else:
                tied = best["low"] is not None and best["low"] <= plain["value"]
                told += f"; {names[plain['method']]}, which takes no gradient, has {print_score(plain)}"
                told += ", within that interval" if tied else ""
            sentences.append(f"{told}.")
    return sentences


def wrong_labels(rows: Rows) -> list[str]:
    """Say who finds wrong labels better than random order."""
    aucs = {row["method"]: row for row in rows if row["measure"] == "auc"}
    random = aucs.pop(RANDOM, None)
    if not aucs:
        return []
    names = {name: label for name, _, label in list_attribution(aucs)}
    best = max(aucs.values(), key=lambda row: row["value"])
    told = f"{names[best['method']]} finds wrong labels best: area under the ROC curve {best['value']:.2f}"
    told += f", random orders {random['value']:.2f}" if random else ""
    sentences = [f"{told}."]
    worse = [row for row in aucs.values() if row["value"] <= (random["value"] if random else 0.5)]
    if worse:
        told = listed([f"{names[row['method']]} ({row['value']:.2f})" for row in worse])
        sentences.append(f"No better than random orders: {told}.")
    return sentences


def choosing(rows: Rows) -> list[str]:
    """Say whose choices of training data are better than random ones, for whom, and what simulators promised."""
    sentences = []
    for group in dict.fromkeys(row["group"] for row in rows):
        of_group = [row for row in rows if row["group"] == group]
        labels = {who: label for who, _, label in list_choosers(of_group)}
        for measure, tests in (("target_gain", "the tests they serve"), ("gain", "other tests of the task")):
            found = [row for row in of_group if row["measure"] == measure and row["method"] not in AT_RANDOM]
            better = sorted((row for row in found if above(row)), key=lambda row: -row["value"])
            worse = [row for row in found if below(row)]
            if not found:
                continue
            told = f"{group}, {tests}: {len(better)} of {counted(len(found), 'choice')} lower the loss more than random"
            if better:
                top = better[0]
                told += f", most {labels[top['method'], top['order']]} by {print_score(top, 2)} nats per token"
            told += f"; {len(worse)} of them lower it less than random" if worse else ""
            sentences.append(f"{told}.")
        cells = {(row["method"], row["order"], row["measure"]): row for row in of_group}
        for (method, order, measure), promised in cells.items():
            got = cells.get((method, order, "target_gain"))
            if measure == "predicted_gain" and got and not math.isclose(promised["value"], got["value"]):
                sentences.append(
                    f"{group}: {labels[method, order]} promises a gain of {promised['value']:.2f} where "
                    f"{got['value']:.2f} comes."
                )
    return sentences


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _verb(rows: Rows) -> str:
    return "is" if len(rows) == 1 else "are"
