"""Repositories for tests: a copy of the checkout under git and DVC, with its own package and a plan of seconds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pipeline import ROOT, make_tiny

BIN = Path(sys.executable).parent
FOLDERS = ("data/tasks", "data/curricula", "data/models", "data/dynamics", "data/mislabels", "data/choices",
           "results/features", "results/attribution", "results/simulators", "results/simulations", "results/refits",
           "results/scores", "results/tables", "results/figures")  # fmt: skip
"""What the stages make, plan and pages aside."""

PAGE = ("results/whatif.html", "results/whatif.provenance.json")
"""One of the pages; the other one, the report, holds what jobs took, and so is another each time that it is made."""

KEPT_TABLES = ["table_1", "table_2", "table_simulators"]
KEPT_FIGURES = ["figure_2", "figure_6", "figure_simulators"]
"""What repositories make that are worked with for long."""

SHARED_OUTPUTS = ("results/scores", "results/tables", "results/figures", *PAGE)
"""Files with plain names: the ones that another configuration writes over."""


def make_small(raw: dict[str, Any]) -> dict[str, Any]:
    """Turn the shipped params.yaml into a small plan, without attribution: one task, 4 and 4 runs."""
    small = make_tiny(raw)
    plan = small["scales"]["tiny"]
    plan |= {"pool": 8, "unseen_pool": 8, "test": 3}
    one = {"train_tasks": ["rte"], "test_tasks": ["rte"], "draw": 8}
    few = {"fit": 2, "validate": 1, "held_out": 1, "unseen": 0}
    for settings in plan["scenarios"].values():
        settings |= one | {"runs": dict(few)}
    small["dynamics"]["pretraining"] |= {"sentences": 200, "vocabulary": 400}
    small["dynamics"]["generation"]["max_new_tokens"] = 6
    for name in ("gptfluence_mlp", "gptfluence_gradients"):
        small["simulators"]["methods"].pop(name)
        small["scores"]["variants"].pop(name, None)
    for name in ("gptfluence_gradients", "global_ar1"):
        small["scores"]["unseen_tests"]["methods"].remove(name)
    small["baselines"]["trivial"] = ["persistence", "mean_curve"]
    small["paper"]["example_curves"] = 1
    return small


def make_smallest(raw: dict[str, Any]) -> dict[str, Any]:
    """Turn the shipped params.yaml into a plan of four runs, without text features; each job takes about a second."""
    small = make_small(raw)
    small["scales"]["tiny"]["scenarios"].pop("fine_tuning")
    small["simulators"]["methods"].pop("gptfluence")
    small["scores"]["variants"].pop("gptfluence")
    small["scores"]["unseen_tests"]["methods"].remove("gptfluence")
    small["scores"]["schedules"]["methods"].remove("gptfluence")
    small["scores"]["convergence"].pop("gptfluence")
    return small


def change_everything(params: dict[str, Any]) -> None:
    """Turn configuration A into B: one run more, another simulator, other numbers in the tables: all stages differ."""
    params["scales"]["tiny"]["scenarios"]["instruction_tuning"]["runs"]["held_out"] += 1
    params["simulators"]["methods"]["simfluence"]["strengths"] = [1.0]
    params["scores"]["confidence"] = 0.5


class Failed(AssertionError):
    """A command ended with another exit code than expected; the message holds all it said."""


class Repository:
    """A folder under git and DVC in which commands run as a user's would: with the folder's own package.

    Args:
        folder: root of the repository.
        home: home folder of the user, for caches and settings of all tools.
        prefix: command that starts every other one, e.g. to run it as another user.
    """

    def __init__(self, folder: Path, home: Path, prefix: Iterable[str] = ()) -> None:
        self.folder = folder
        self.home = home
        self.prefix = tuple(prefix)

    # ------------------------------------------------------------------------------------------------- commands

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the caller's own settings, and the folder's package before the installed one."""
        own = ("GIT_", "DVC_", "SNAKEMAKE_", "PYTHON")  # byte code too is written, as it is for most users
        kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
        names = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
                 for what, value in (("NAME", "A User"), ("EMAIL", "user@example.org"))}  # fmt: skip
        return kept | names | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "MPLCONFIGDIR": str(self.home / "matplotlib"),
            "DVC_SITE_CACHE_DIR": str(self.home / "dvc"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "advice.detachedHead",
            "GIT_CONFIG_VALUE_1": "false",
            "GIT_TERMINAL_PROMPT": "0",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "workflow"),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def call(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is; output and errors in one text."""
        return subprocess.run(
            [*self.prefix, *map(str, command)], cwd=self.folder, env=self.environment | variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=900,
        )  # fmt: skip

    def run(self, *command: str | Path, code: int = 0, **variables: str) -> str:
        """Run a command that has to end with `code`; return what it said.

        Raises:
            Failed: it ended otherwise.
        """
        result = self.call(*command, **variables)
        if result.returncode != code:
            line = " ".join(map(str, command))
            raise Failed(f"{self.folder}$ {line}\nexit code {result.returncode}, not {code}:\n{result.stdout}")
        return result.stdout

    def git(self, *arguments: str, code: int = 0) -> str:
        """Run git."""
        return self.run("git", *arguments, code=code)

    def dvc(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run DVC."""
        return self.run(sys.executable, "-m", "dvc", *arguments, code=code, **variables)

    def snakemake(self, *arguments: str, code: int = 0) -> str:
        """Run Snakemake with the local profile on two cores."""
        profile = ("--profile", "workflow/profiles/local", "--cores", "2")
        return self.run(sys.executable, "-m", "snakemake", *profile, *arguments, code=code)

    def gptfluence(self, *arguments: str, code: int = 0) -> str:
        """Run the package's own commands."""
        return self.run("gptfluence", *arguments, code=code)

    # ---------------------------------------------------------------------------------------------------- state

    def path(self, name: str) -> Path:
        """Return the path of a file of the repository."""
        return self.folder / name

    def params(self) -> dict[str, Any]:
        """Return params.yaml as it is."""
        return yaml.safe_load(self.path("params.yaml").read_text(encoding="utf-8"))

    def write_params(self, params: Mapping[str, Any]) -> None:
        """Write params.yaml."""
        self.path("params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False), encoding="utf-8")

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change params.yaml in place."""
        params = self.params()
        change(params)
        self.write_params(params)

    def commit(self, message: str) -> None:
        """Commit all that git tracks or should track."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def made(self, *folders: str) -> list[str]:
        """Return the paths of all files below `folders` (default: all that stages make), sorted."""
        found = [path for folder in folders or FOLDERS for path in self.path(folder).rglob("*")]
        found += () if folders else map(self.path, PAGE)
        return sorted(str(path.relative_to(self.folder)) for path in found if path.is_file())

    def digests(self, *folders: str) -> dict[str, str]:
        """Return the MD5 digest, DVC's own, of each file below `folders`."""
        return {file: md5(self.path(file)) for file in self.made(*folders)}

    def inodes(self, *folders: str) -> dict[str, tuple[int, int]]:
        """Return what changes if a file is written again, even with the same bytes."""
        stats = {file: self.path(file).stat() for file in self.made(*folders)}
        return {file: (stat.st_ino, stat.st_mtime_ns) for file, stat in stats.items()}

    def shards(self) -> list[str]:
        """Return the paths of all shards."""
        return [file for file in self.made("data/dynamics") if file.endswith(".parquet")]

    def planned(self, *arguments: str) -> dict[str, int]:
        """Return how many jobs of each rule `snakemake -n` announces; rules that only collect are left out."""
        said = self.snakemake("-n", *arguments)
        return jobs(said)

    def recorded(self, cache: Path) -> dict[str, str]:
        """Return the MD5 digest of each file that dvc.lock records as an output, folders unfolded from a cache."""
        lock = yaml.safe_load(self.path("dvc.lock").read_text(encoding="utf-8"))
        found: dict[str, str] = {}
        for stage in lock["stages"].values():
            for out in stage.get("outs", []):
                value = out["md5"]
                if not value.endswith(".dir"):
                    found[out["path"]] = value
                    continue
                listed = json.loads((cache / "files/md5" / value[:2] / value[2:]).read_text())
                found |= {f"{out['path']}/{item['relpath']}": item["md5"] for item in listed}
        return found

    def copy_to(self, folder: Path) -> Repository:
        """Copy the whole folder with all times, links and records of the engines."""
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return Repository(folder, self.home, self.prefix)

    def clone_to(self, folder: Path, *arguments: str) -> Repository:
        """Clone with git: what another user gets, without any data."""
        clone = Repository(folder, self.home, self.prefix)
        self.run("git", "clone", "--quiet", *arguments, self.folder, folder)
        return clone


def make_repository(folder: Path, home: Path, params: Mapping[str, Any] | None = None) -> Repository:
    """Make a git repository of the checkout as it stands (what is not ignored), with another params.yaml."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in listed:
        if name and os.path.lexists(ROOT / name) and not name.startswith(("dvc.lock", "results/real/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    home.mkdir(parents=True, exist_ok=True)
    repository = Repository(folder, home)
    raw = params or make_small(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    repository.write_params(raw)
    repository.git("init", "--quiet", "--initial-branch", "main")
    return repository


def keep_items(repository: Repository, tables: list[str], figures: list[str]) -> None:
    """Leave some tables and figures alone in a copy of the project; others are made in the same way, and take time."""
    design = repository.path("workflow/gptfluence/design.py")
    text = design.read_text(encoding="utf-8")
    for name, forms, kept in (("TABLES", "TABLE_FORMS", tables), ("FIGURES", "FIGURE_FORMS", figures)):
        assert text.count(f"\n{forms} = ") == 1
        text = text.replace(f"\n{forms} = ", f"\n{name} = {{name: {name}[name] for name in {kept}}}\n{forms} = ")
    assert text.count("\nMODULES = ") == 1
    text = text.replace("\nMODULES = ", "\nSUBJECTS = {}\nMODULES = ")  # they name items that are no more
    design.write_text(text, encoding="utf-8")
    path = repository.path("dvc.yaml")
    dvc = yaml.safe_load(path.read_text(encoding="utf-8"))
    stages = dvc["stages"]
    kept = {*tables, *figures}
    for name, stage in list(stages.items()):
        items = stage.get("foreach", [name])
        left = {item: items[item] for item in items if item in kept} if isinstance(items, dict) else kept & {*items}
        if not left and name.startswith(("table", "figure")):
            del stages[name]
        elif "foreach" in stage:
            stage["foreach"] = left if isinstance(items, dict) else sorted(left)
    path.write_text(yaml.safe_dump(dvc, sort_keys=False), encoding="utf-8")


def keep_one_table_and_figure(repository: Repository) -> None:
    """Leave table_1 and figure_6 alone, and make no report, which shows the scores of all, nor refits."""
    keep_items(repository, ["table_1"], ["figure_6"])
    path = repository.path("dvc.yaml")
    dvc = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in [name for name in dvc["stages"] if name.startswith(("scores_", "refits", "report"))]:
        del dvc["stages"][name]
    path.write_text(yaml.safe_dump(dvc, sort_keys=False), encoding="utf-8")
    snakefile = repository.path("Snakefile")
    text = snakefile.read_text(encoding="utf-8")
    assert "        rules.write_report.output,\n" in text
    snakefile.write_text(text.replace("        rules.write_report.output,\n", ""), encoding="utf-8")


def md5(path: Path) -> str:
    """Return the MD5 digest of a file, as DVC computes it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


_COLLECTING = ("all", "total", "tasks", "curricula", "dynamics", "features", "attribution", "simulators", "mislabels",
               "choices", "scores", "tables", "figures", "page", "report")  # fmt: skip


def jobs(said: str) -> dict[str, int]:
    """Return how many jobs of each rule Snakemake counted in its table; rules that only collect are left out."""
    rows = re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in _COLLECTING}


def stages_run(said: str) -> list[str]:
    """Return the names of the stages whose commands DVC ran."""
    return re.findall(r"^Running stage '([^']+)'", said, re.MULTILINE)
