"""What a release was found to hold, and what is missing of what was published, in words."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from gptfluence.errors import UserError
from gptfluence.released.plan import Plan

REPORT = Path("report.json")

_FINE_TUNING = tuple(range(1, 33))
_SEEDS: dict[tuple[str, str], tuple[int, ...]] = {
    ("pythia-410m", "sst2"): _FINE_TUNING,
    ("pythia-410m", "rte"): _FINE_TUNING,
    ("pythia-410m", "boolq"): _FINE_TUNING,
    ("pythia-410m", "webnlg"): _FINE_TUNING,
    ("pythia-410m", "wmt16_de_en"): (*range(1, 12), *range(17, 30), *range(33, 37), *range(43, 47)),
    ("pythia-410m", "flan"): (3, 4, *range(5, 10), *range(17, 27), *range(34, 37), *range(38, 48), 49, 50),
    ("pythia-14m", "flan"): (*range(1, 10), *range(10, 33)),
    ("pythia-70m", "flan"): (*range(2, 10), *range(10, 33)),
    ("pythia-160m", "flan"): (*range(1, 10), *range(10, 33)),
    ("pythia-1b", "flan"): (*range(1, 10), *range(10, 33)),
    ("pythia-2.8b", "flan"): (*range(1, 10), *range(10, 33)),
}
"""Seeds of the published runs, by model and task, as the published code names them."""
_UNSEEN = {("pythia-410m", "rte"): (1, 2, 3), ("pythia-410m", "webnlg"): (1, 2, 3)}
_SHOWN = 8


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report of an import.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / REPORT
    try:
        report = dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise UserError(
            f"{path}: missing: the released runs are not imported yet. Run: gptfluence import PATH (of the release's "
            "tar or folder)"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Run gptfluence import again.") from None
    if "mixed" not in report:
        raise UserError(f"{path}: an earlier version's. Run gptfluence import again.")
    return report


def missing_runs(report: dict[str, Any]) -> dict[str, list[int]]:
    """Return the seeds of published runs that were not found, by model, task, and whether on unseen data."""
    found = defaultdict(set)
    for run in report["runs"].values():
        found[run["model"], run["task"], run["unseen"]].add(run["seed"])
    wanted = {(*key, False): seeds for key, seeds in _SEEDS.items()} | {(*k, True): s for k, s in _UNSEEN.items()}
    missing = {
        f"{model} {task}{' unseen' if unseen else ''}": sorted(set(seeds) - found[model, task, unseen])
        for (model, task, unseen), seeds in wanted.items()
    }
    return {name: seeds for name, seeds in missing.items() if seeds}


def render(report: dict[str, Any]) -> str:
    """Say in words what an import found.

    Args:
        report: source (name, bytes), samples ({task part: files, examples, missing, differing}), runs ({file: see
            `recording.describe`}), empty, unread ({file: [lines, first]}), refused ({path: why}), others ({kind:
            [files, example]}: what no simulator needs), missing (see `missing_runs`).
    """
    source, runs = report["source"], report["runs"]
    lines = [f"{source['name']}: {source['bytes'] / 1e6:,.1f} MB, {len(runs)} runs", "", "Runs"]
    groups = defaultdict(list)
    for run in runs.values():
        groups[run["model"] or "?", run["task"], run["kind"], run["unseen"]].append(run)
    for (model, task, kind, unseen), members in sorted(groups.items()):
        steps = sorted({f"{run['first']}-{run['last']}" for run in members})
        seeds = _ranges([run["seed"] for run in members if run["seed"] is not None])
        what = "mislabelled data" if kind == "other" else kind.replace("_", "-")
        tests = sorted({f"{n['ids']} {t}" for run in members for t, n in run["tests"].items()})
        data = " (unseen data)" if unseen else ""
        lines.append(f"  {model} {task}{data}, {what}: {len(members)} runs, seeds {seeds}; steps {', '.join(steps)}; "
                     f"tests: {', '.join(tests)}")  # fmt: skip
        lines += [f"    {line}" for line in _irregular(members)]
    lines += ["", "Texts"]
    lines += [
        f"  {name}: {found['examples']} examples in {len(found['files'])} files"
        + (f"; ids {_ranges(found['missing'])} missing" if found["missing"] else "")
        + (f"; {found['differing']} differ between files" if found["differing"] else "")
        for name, found in report["samples"].items()
    ] or ["  none"]
    missing = report["missing"]
    lines += ["", "Published runs that are not there"]
    lines += [f"  {name}: seeds {_ranges(seeds)}" for name, seeds in missing.items()] or ["  none"]
    problems = [f"  {name}: empty" for name in report["empty"]]
    problems += [f"  {name}: {count} lines left out ({first})" for name, (count, first) in report["unread"].items()]
    problems += [f"  {name}: refused: {why}" for name, why in report["refused"].items()]
    lines += ["", "Files that could not be read"] + (_few(problems) or ["  none"])
    others = [f"  {count} {kind}, e.g. {example}" for kind, (count, example) in report["others"].items()]
    lines += ["", "Files that no simulator needs"] + (_few(others) or ["  none"])
    return "\n".join(lines) + "\n"


def render_plan(plan: Plan, scale: str) -> str:
    """Say in words which runs a scale uses for what."""
    lines = [f"Scale {scale}"]
    for group in plan.groups:
        counts = Counter(member.split for member in group.members)
        splits, metrics = ", ".join(f"{n} {split}" for split, n in counts.items()), ", ".join(group.metrics)
        steps = f"steps {group.first}-{group.last}, batches of {group.batch}"
        lines.append(f"  {group.group}: {splits}; {metrics}; {steps}")
        seeds = [m.number for m in group.members if m.split == "held_out"]
        lines.append(f"    held out: {_ranges(seeds)}")
        lines += [
            f"    training examples {s.first}-{s.last} of {task} are its {s.to}-{s.to + s.last - s.first}"
            for task, stretches in sorted((group.placed or {}).items())
            for s in stretches
        ]
        lacking = [task for task, stretches in sorted((group.placed or {}).items()) if not stretches]
        lines += [f"    training examples of {', '.join(lacking)} are not found in it"] * bool(lacking)
        lines += [f"    {m.found['folder']}: training ids moved by {m.offset}" for m in group.members if m.offset]
    left_out = Counter(plan.left_out.values())
    lines += ["", "Left out"]
    for why, count in left_out.items():
        names = [name for name, reason in plan.left_out.items() if reason == why]
        lines.append(f"  {count} ({names[0]}{', ...' * (count > 1)}): {why}")
    return "\n".join(lines + ["  nothing"] * (not left_out)) + "\n"


def _irregular(runs: list[dict[str, Any]]) -> list[str]:
    """Return a line for each thing that is out of order, and in how many runs."""
    lines = []
    for name, told in (
        ("steps that no test was measured at", lambda run: run["unmeasured"]),
        ("steps whose batch is not recorded", lambda run: run["batches"]["missing"]),
        ("values that were not measured", lambda run: sum(sum(t["gaps"].values()) for t in run["tests"].values())),
        ("empty files", lambda run: run["empty"]),
        ("lines left out", lambda run: run["unread"]),
    ):
        some = [(run, found) for run in runs if (found := told(run))]
        if some:
            run, found = some[0]
            shown = f"{found:,}" if isinstance(found, int) else _listed(found)
            lines.append(f"{name}: {len(some)} runs, e.g. {Path(run['folder']).name}: {shown}")
    return lines


def _listed(found: list[Any] | dict[str, Any]) -> str:
    names = list(found)
    return _ranges(names) if isinstance(names[0], int) else ", ".join(names[:3])


def _few(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines[:_SHOWN] + ([f"  and {more} more, see report.json"] if more > 0 else [])


def _ranges(numbers: list[int]) -> str:
    """Write numbers as ranges: 1-3, 7."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in parts]
    return ", ".join(shown[:_SHOWN] + ["..."] * (len(shown) > _SHOWN)) or "not told"
