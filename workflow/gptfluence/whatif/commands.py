"""The shell's questions: simulate, compare, influence, select. What they are given: see `arguments`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptfluence.errors import UserError, did_you_mean
from gptfluence.whatif.ask import WhatIf, load
from gptfluence.whatif.curriculum import Curriculum
from gptfluence.whatif.files import SUFFIXES, check_output, read_curricula, write_curricula, write_table
from gptfluence.words import LEVELS

log = logging.getLogger("gptfluence")


def run(options: argparse.Namespace) -> None:
    """Answer one of the four commands."""
    if options.json and options.output:
        raise UserError("--json prints rows, --output writes them; take one")
    output = check_output(options.output) if options.output else "-" if options.json else None
    fitted = load(_simulator(options.simulator))
    if getattr(options, "text", None):
        fitted = fitted.with_texts(_texts(options.text))
    try:
        _ANSWERS[options.command](fitted, options, output)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _simulate(fitted: WhatIf, options: argparse.Namespace, output: str | None) -> None:
    curricula = [_edited(fitted, c, options) for name in options.curricula for c in _curricula(fitted, name)]
    found = fitted.simulate(curricula, options.tests)
    _say(found.notes)
    if output is not None:
        write_table(output, found.rows())
        return
    ends = None if found.half_widths is None else found.interval(LEVELS[1])
    unit = f"{fitted.metric} after {curricula[0].steps} steps"
    for i, curriculum in enumerate(curricula):
        print(f"{curriculum.name}: mean {unit} {found.final[i].mean():.4f}, before {found.values[i, 0].mean():.4f}")
        rows = []
        for z in range(min(options.top, len(found.tests))):
            between = "" if ends is None else f"{ends[0][i, -1, z]:.4f} to {ends[1][i, -1, z]:.4f}"
            rows.append((found.tests[z], f"{found.values[i, 0, z]:.4f}", f"{found.final[i, z]:.4f}", between))
        _print(("test", "before", "after", "80% interval" if ends is not None else ""), rows, len(found.tests))


def _compare(fitted: WhatIf, options: argparse.Namespace, output: str | None) -> None:
    first = _one(fitted, options.first)
    second = _edited(fitted, first if options.second is None else _one(fitted, options.second), options)
    if second == first:
        raise UserError("there is nothing to compare; name another curriculum, or a change such as --without")
    if options.second is None:
        second = second.named(f"{first.name}, changed")
    found = fitted.compare(first, second, options.tests)
    _say((*found.first.notes, *found.second.notes))
    if output is not None:
        write_table(output, found.rows())
        return
    print(f"{second.name} less {first.name}: mean {fitted.metric} {found.final.mean():+.4f}")
    order = np.argsort(-np.abs(found.final), kind="stable")[: options.top]
    rows = [(found.first.tests[z], f"{found.first.final[0, z]:.4f}", f"{found.second.final[0, z]:.4f}",
             f"{found.final[z]:+.4f}") for z in order]  # fmt: skip
    _print(("test", "first", "second", "difference"), rows, len(found.first.tests))


def _influence(fitted: WhatIf, options: argparse.Namespace, output: str | None) -> None:
    curriculum = _edited(fitted, _one(fitted, options.curriculum), options)
    if options.pairs:
        _pairs(fitted, curriculum, options, output)
        return
    found = fitted.influence(curriculum, options.tests, "curve" if options.curve else "final", options.examples)
    _say(found.notes)
    if output is not None:
        write_table(output, found.rows())
        return
    about = found.tests[0] if len(found.tests) == 1 else f"mean of {len(found.tests)} tests"
    texts = _Texts(fitted)
    if len(found.tests) == 1:
        print(f"{about}{texts.of('test', about)}")
    for title, ranked in (("proponents", found.proponents), ("opponents", found.opponents)):
        best = ranked(found.tests[0] if len(found.tests) == 1 else None, options.top)
        print(f"{title}: influence on the last {fitted.metric}, {about}")
        _print(
            ("example", "influence", ""), [(name, f"{v:+.5f}", texts.of("pool", name)) for name, v in best], len(best)
        )


def _pairs(fitted: WhatIf, curriculum: Curriculum, options: argparse.Namespace, output: str | None) -> None:
    found = fitted.interactions(curriculum, options.pairs, options.tests)
    if output is not None:
        write_table(output, found.rows())
        return
    means = found.values.mean(axis=2)
    pairs = sorted(zip(*np.triu_indices(len(found.train), 1), strict=True), key=lambda pair: -abs(means[pair]))
    print(f"interactions on the last {fitted.metric}, mean of {len(found.tests)} tests")
    rows = [(found.train[i], found.train[j], f"{means[i, j]:+.6f}") for i, j in pairs[: options.top]]
    _print(("first", "second", "interaction"), rows, len(pairs))


def _select(fitted: WhatIf, options: argparse.Namespace, output: str | None) -> None:
    log.info("searching for %d examples in %d steps", options.budget, fitted.steps)
    chosen = fitted.select(options.budget, options.tests, options.examples, None, options.seed)
    promised = fitted.simulate(chosen, options.tests)
    _say(promised.notes)
    if output is not None:
        write_curricula(output, [chosen])
        return
    drawn = [fitted.random(seed, options.examples) for seed in range(10)]
    at_random = fitted.simulate(drawn, options.tests).final.mean()
    print(f"{chosen.name}: mean loss {promised.final.mean():.4f} is simulated, {at_random:.4f} of ten random curricula")
    rows = [(str(step), " ".join(batch)) for step, batch in enumerate(chosen.batches, start=1)]
    _print(("step", "batch"), rows[: options.top], len(rows))


_ANSWERS: dict[str, Callable[[WhatIf, argparse.Namespace, str | None], None]] = {
    "simulate": _simulate,
    "compare": _compare,
    "influence": _influence,
    "select": _select,
}


# ------------------------------------------------------------------------------------------------- what is asked


def _simulator(name: str) -> Path:
    """Return the file of a simulator, which a project's folder knows by its name."""
    if Path(name).suffix == ".safetensors" or Path(name).is_file():
        if not Path(name).is_file():
            raise UserError(f"{name}: no such file")
        return Path(name)
    folders = [Path("results/simulators"), Path("results/refits")]
    found = sorted(path for folder in folders for path in folder.glob(f"{_literal(name)}.*.safetensors"))
    if not found:
        known = sorted({path.name.rsplit(".", 2)[0] for folder in folders for path in folder.glob("*.safetensors")})
        raise UserError(
            f"{name}: neither a file nor a simulator in {' or '.join(map(str, folders))}{did_you_mean(name, known)}; "
            f"there are {len(known)}" + (f", such as {known[0]}" if known else "")
        )
    if len(found) > 1:
        group, metric, method = name.rsplit(".", 2)
        return _planned(found, lambda design: design.simulator_file(group, metric, method))
    return found[0]


def _curricula(fitted: WhatIf, name: str) -> list[Curriculum]:
    """Return the curricula that an argument names; see the help."""
    kind, _, seed = name.partition(":")
    if kind == "random" and not Path(name).exists():
        if not seed.isdigit():
            raise UserError(f"{name}: a random curriculum needs a seed, such as random:1")
        return [fitted.random(int(seed))]
    if name == "-" or Path(name).is_file() or Path(name).suffix in SUFFIXES:
        return read_curricula(name)
    folders = [Path("data/curricula"), Path("data/choices/curricula")]
    found = sorted(path for folder in folders for path in folder.glob(f"{_literal(name)}.*.parquet"))
    if not found:
        raise UserError(f"{name}: neither a file, nor a run in data/curricula, nor random:SEED")
    path = found[0]
    if len(found) > 1:
        path = _planned(found, lambda design: next(r.curriculum for r in design.runs.values() if r.run_id == name))
    return [curriculum.named(name) for curriculum in read_curricula(path)]


def _one(fitted: WhatIf, name: str) -> Curriculum:
    found = _curricula(fitted, name)
    if len(found) > 1:
        raise UserError(f"{name}: holds {len(found)} curricula, and one is asked for")
    return found[0]


def _literal(name: str) -> str:
    import glob

    return glob.escape(name)


def _planned(found: Sequence[Path], pick: Callable[[Any], str]) -> Path:
    """Return which of several files is the present plan's."""
    from gptfluence.design import make_design
    from gptfluence.params import read_params

    if Path("params.yaml").is_file():
        try:
            path = Path(pick(make_design(read_params(Path("params.yaml"), None))))
        except (StopIteration, KeyError):
            path = None
        if path in found:
            return path
    raise UserError(
        f"there are {len(found)} of that name, and no params.yaml says which: name one of {', '.join(map(str, found))}"
    )


def _edited(fitted: WhatIf, curriculum: Curriculum, options: argparse.Namespace) -> Curriculum:
    fitted.train.numbers(curriculum.examples)  # says the nearest names if there is an unknown one
    changed = curriculum
    if options.without:
        names = [fitted.train.names[i] for i in fitted.train.matching(options.without)]
        used = set(changed.examples)
        there = [name for name in names if name in used]
        for name in set(options.without) & set(fitted.train.names) - used:
            raise UserError(f"{curriculum.name}: does not train on '{name}', so it cannot be left out")
        if not there:
            raise UserError(f"{curriculum.name}: trains on none of {' '.join(options.without)}")
        changed = changed.without(*there)
    for pair in options.replace:
        changed = changed.replace(*_parted(pair, "=", "--replace rte:3=rte:8"))
    for pair in options.swap:
        changed = changed.swap(*_parted(pair, "=", "--swap rte:3=rte:8"))
    for edit, pairs in ((Curriculum.move, options.move), (Curriculum.repeat, options.repeat)):
        steps: dict[str, list[int]] = {}
        for pair in pairs:
            name, step = _parted(pair, "@", "--move rte:3@1")
            if not step.isdigit():
                raise UserError(f"{pair}: {step} is no step, such as rte:3@1")
            steps.setdefault(name, []).append(int(step))
        for name, places in steps.items():
            changed = edit(changed, name, *places)
    if options.rates:
        changed = changed.with_rates(_rates(fitted, changed, options.rates))
    return changed


def _parted(pair: str, mark: str, example: str) -> tuple[str, str]:
    left, found, right = pair.partition(mark)
    if not (found and left and right):
        raise UserError(f"{pair}: must be two parts with {mark} between, as in {example}")
    return left, right


def _rates(fitted: WhatIf, curriculum: Curriculum, given: str) -> list[float]:
    try:
        factor = float(given)
    except ValueError:
        try:
            return [float(line) for line in Path(given).read_text(encoding="utf-8").split()]
        except OSError as error:
            raise UserError(
                f"--rates {given}: neither a number nor a file that can be read: {error.strerror}"
            ) from None
        except ValueError:
            raise UserError(f"{given}: must hold one number a line, the learning rate of each step") from None
    return [factor * rate for rate in fitted.schedule(curriculum)]


def _texts(path: str) -> dict[str, tuple[str, str]]:
    from gptfluence.tasks.local import read_lines

    found = {}
    for where, row in read_lines(path):
        if not all(isinstance(row.get(key), str) for key in ("id", "prompt", "target")):
            raise UserError(f"{where}: needs id (such as mine:0), prompt and target, all texts")
        if not row["id"].rpartition(":")[0] or not row["id"].rpartition(":")[2].isdigit():
            raise UserError(f"{where}: id must be a task and a number, such as mine:0")
        found[row["id"]] = (row["prompt"], row["target"])
    return found


# ------------------------------------------------------------------------------------------------ what is printed


def _say(notes: Sequence[str]) -> None:
    for note in dict.fromkeys(notes):
        print(f"note: {note}", file=sys.stderr)


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> None:
    """Print a table with aligned columns; the last is text."""
    whole = [heads, *rows]
    widths = [max(len(row[i]) for row in whole) for i in range(len(heads))]
    for row in whole:
        cells = [cell.ljust(width) if i in (0, len(heads) - 1) else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        print("  " + "  ".join(cells).rstrip())
    if total > len(rows):
        print(f"  ... {total - len(rows)} more: --top N, or -o FILE for all")


@dataclass
class _Texts:
    """What the examples of a project's tasks say, if this is its folder."""

    fitted: WhatIf

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, str], dict[int, str]] = {}

    def of(self, part: str, name: str) -> str:
        """Return an example's text, cut to a line; empty if it is not known here."""
        task, _, example = name.rpartition(":")
        if (task, part) not in self._known:
            self._known[task, part] = self._read(task, part)
        text = self._known[task, part].get(int(example), "")
        return "  " + json.dumps(text[:90] + ("..." if len(text) > 90 else ""), ensure_ascii=False) if text else ""

    def _read(self, task: str, part: str) -> dict[int, str]:
        found = sorted(Path("data/tasks").glob(f"{_literal(task)}.*.parquet"))
        if not found:
            return {}
        from gptfluence.io import read_parquet

        path = found[0]
        if len(found) > 1:
            try:
                path = _planned(found, lambda design: design.task_file(task))
            except UserError:
                return {}
        form = self.fitted.facts["format"]
        parts = ("test",) if part == "test" else ("pool", "unseen_pool")
        return {
            row["example"]: f"{row['prompt']} {row['target']}"
            for row in read_parquet(path, ["part", "example", "format", "prompt", "target"]).to_pylist()
            if row["part"] in parts and row["format"] == form
        }
