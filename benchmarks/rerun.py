"""What is waited for when little or nothing is left to do: plans, second calls, one figure, with each engine.

Prints one JSON object a line, in CPU seconds of all processes. `ours` is the command in a small finished project (for
the paper's plan: in a fresh clone), `other` the same command of the same engine in a project of as many jobs and
stages that each touch one file: what the engine itself takes. `ratio` is other / ours; `ours` should stay below `bar`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import yaml
from dvc_repository import KEPT_FIGURES, KEPT_TABLES, Repository, keep_items, make_repository
from pipeline import ROOT


def seconds_of_children() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tell(name: str, bar: float, ours: Callable[[], object], other: Callable[[], object]) -> None:
    """Measure two calls and print them."""
    seconds = []
    for call in (ours, other):
        used = seconds_of_children()
        call()
        seconds.append(round(seconds_of_children() - used, 2))
    ours_took, other_took = seconds
    row = {"name": f"rerun: {name}", "ours": ours_took, "other": other_took, "ratio": round(other_took / ours_took, 2)}
    print(json.dumps(row | {"unit": "CPU s", "bar": bar, "other_is": "as many jobs that touch a file"}), flush=True)


def make_bare(folder: Path, jobs: int, stages: int) -> Repository:
    """Make a project of `jobs` jobs of Snakemake and `stages` stages of DVC that each touch one file."""
    folder.mkdir()
    rules = [f"rule all:\n    input: [f'out/{{i}}' for i in range({jobs})]"]
    rules += ["rule touch:\n    output: 'out/{i}'\n    shell: 'touch {output}'"]
    (folder / "Snakefile").write_text("\n\n".join(rules) + "\n", encoding="utf-8")
    commands = [f"mkdir -p made && echo {i} > made/{i}" for i in range(stages)]
    made = {f"stage_{i}": {"cmd": command, "outs": [f"made/{i}"]} for i, command in enumerate(commands)}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": made}), encoding="utf-8")
    bare = Repository(folder, folder / ".home")
    bare.git("init", "--quiet")
    bare.dvc("init", "--quiet")
    return bare


def bare_snakemake(bare: Repository, *arguments: str) -> None:
    """Run Snakemake in the bare project."""
    bare.run(sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all", *arguments)


def measure_plan(top: Path) -> None:
    """Plan the paper's runs in a fresh clone, for the first time."""
    first, second = (Repository(top / name, top / "home") for name in ("counted", "measured"))
    for clone in (first, second):
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone.folder)], check=True)
    command = (sys.executable, "-m", "snakemake", "--profile", "slurm", "-n")
    total = int(re.findall(r"^total +(\d+)$", first.run(*command), re.MULTILINE)[0])
    bare = make_bare(top / "many", total - 1, 1)
    tell(f"plan of the paper's {total} jobs", 15, lambda: second.run(*command), lambda: bare_snakemake(bare, "-n"))


def measure_reruns(top: Path) -> None:
    """Call each engine in a finished project, with nothing to do, with a figure lost, and with one drawn otherwise."""
    (top / "small").mkdir()
    small = make_repository(top / "small", top / "home")
    keep_items(small, KEPT_TABLES, KEPT_FIGURES)
    small.dvc("repro")
    stages = len(yaml.safe_load(small.path("dvc.lock").read_text(encoding="utf-8"))["stages"])
    bare = make_bare(top / "bare", sum(small.planned("--forceall").values()), stages)
    bare_snakemake(bare)
    bare.dvc("repro")

    def lose(jobs: int) -> None:
        for i in range(jobs):
            bare.path(f"out/{i}").unlink(missing_ok=True)
            bare.path(f"made/{i}").unlink(missing_ok=True)

    engines = {
        "Snakemake": (15, small.snakemake, lambda: bare_snakemake(bare)),
        "DVC": (20, lambda: small.dvc("repro"), lambda: bare.dvc("repro")),
    }
    for engine, (bar, ours, other) in engines.items():
        tell(f"nothing to do, {engine}", bar, ours, other)
        small.path("results/figures/figure_6.pdf").unlink()
        lose(1)
        tell(f"one figure lost, {engine}", 15, ours, other)
        curves = small.params()["paper"]["example_curves"] + 1
        small.edit(lambda params, curves=curves: params["paper"].update(example_curves=curves))
        lose(2)
        tell(f"one figure drawn otherwise, and the report that shows it, {engine}", 15, ours, other)
        small.dvc("repro")
        bare.dvc("repro")
        bare_snakemake(bare)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        measure_plan(Path(name))
        measure_reruns(Path(name))


if __name__ == "__main__":
    main()
