"""Every order of what a user does between two configurations, with the real engines, up to a depth."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dvc_repository import (
    SHARED_OUTPUTS,
    Repository,
    change_everything,
    jobs,
    keep_one_table_and_figure,
    make_repository,
    make_smallest,
)
from pipeline import ROOT

pytestmark = pytest.mark.slow

DEPTH = 3
"""Operations in a row of which every order is tried. What the last one leaves is given to the other engine besides."""

BRANCHES = {"A": "main", "B": "other"}
OPERATIONS = ("edit A", "edit B", "git checkout A", "git checkout B", "dvc checkout", "snakemake", "dvc repro")
"""`dvc pull` is none: all that is pushed is in the cache, which makes it the same as `dvc checkout`."""


@dataclass
class Project:
    """A published repository with the branches A and B, and what each configuration makes from nothing.

    Attributes:
        origin: the repository.
        cache: folder of the DVC cache that all copies share; holds everything that was pushed.
        params: text of params.yaml, by configuration.
        made: MD5 digest of each file of a clean build, by configuration.
    """

    origin: Repository
    cache: Path
    params: dict[str, str]
    made: dict[str, dict[str, str]]

    def __post_init__(self) -> None:
        self.named = {file: value for made in self.made.values() for file, value in made.items() if not plain(file)}
        """The one content of each file whose name holds a digest."""

    def configuration(self, repository: Repository) -> str:
        """Return which configuration params.yaml asks for."""
        text = repository.path("params.yaml").read_text(encoding="utf-8")
        return next(name for name, params in self.params.items() if params == text)

    def stands(self, repository: Repository) -> bool:
        """Whether every file of the configuration is there, as a clean build makes it."""
        found = repository.digests()
        return self.made[self.configuration(repository)].items() <= found.items()


def plain(file: str) -> bool:
    """Whether a file's name says nothing of what it was made from."""
    return file.startswith(SHARED_OUTPUTS)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Build both configurations twice: as an oracle, by Snakemake in a folder each, and in a repository, by DVC."""
    base = tmp_path_factory.mktemp("orders")
    raw = make_smallest(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    made, params = {}, {}
    for name in BRANCHES:
        oracle = make_repository(base / f"oracle-{name}", base / "home", raw)
        keep_one_table_and_figure(oracle)
        if name == "B":
            oracle.edit(change_everything)
        params[name] = oracle.path("params.yaml").read_text(encoding="utf-8")
        oracle.snakemake()
        made[name] = oracle.digests()
    same = [file for file in made["A"] if plain(file) and made["A"][file] == made["B"][file]]
    assert not same, f"A and B cannot be told apart by {same}"

    origin = make_repository(base / "origin", base / "home", raw)
    keep_one_table_and_figure(origin)
    origin.dvc("remote", "add", "--default", "storage", str(base / "storage"))
    for name, branch in BRANCHES.items():
        if name != "A":
            origin.git("checkout", "--quiet", "-b", branch)
        origin.path("params.yaml").write_text(params[name], encoding="utf-8")
        origin.snakemake()
        origin.dvc("repro")
        origin.commit(name)
        origin.dvc("push")
    origin.git("checkout", "--quiet", BRANCHES["A"])
    return Project(origin, base / "cache", params, made)


# ------------------------------------------------------------------------------------------------------ one step


def operate(project: Project, repository: Repository, operation: str) -> str:
    """Do one operation; return what was said."""
    command, name = operation.rsplit(" ", 1) if operation[-1] in BRANCHES else (operation, "")
    if command == "edit":
        repository.path("params.yaml").write_text(project.params[name], encoding="utf-8")
        return ""
    if command == "git checkout":
        return repository.git("checkout", "--quiet", "--force", BRANCHES[name])
    if command == "dvc checkout":
        return repository.dvc("checkout")
    stood = project.stands(repository)
    said = repository.snakemake() if command == "snakemake" else repository.dvc("repro")
    assert not stood or jobs(said) == {}, f"what stood was made again:\n{said}"
    return said


def check(project: Project, repository: Repository, operation: str) -> None:
    """Compare all files, and after `dvc repro` all records, with clean builds."""
    found = repository.digests()
    strange = {file for file in found if not plain(file) and found[file] != project.named.get(file)}
    assert not strange, f"not what their names say: {strange}"
    if operation not in ("snakemake", "dvc repro"):
        return
    expected = project.made[project.configuration(repository)]
    wrong = {file for file in expected if found.get(file) != expected[file]}
    assert not wrong, f"not what params.yaml makes: {wrong}"
    if operation == "dvc repro":
        recorded = repository.recorded(project.cache)
        wrong = {file for file in expected if recorded.get(file) != expected[file]}
        assert not wrong, f"not recorded as what params.yaml makes: {wrong}"
        strange = {file for file in recorded if found.get(file, expected.get(file)) != recorded[file]}
        strange -= {file for file in strange if file.startswith("data/plan/")}
        assert not strange, f"recorded, but not there: {strange}"
        said = repository.dvc("status")
        assert said.strip() == "Data and pipelines are up to date.", said


def check_end(project: Project, repository: Repository, operation: str) -> None:
    """After the last operation, ask the other engine: what one made is all the other wants."""
    if operation == "dvc repro":
        said = repository.snakemake("-n")
        assert "Nothing to be done" in said, said
    elif operation == "snakemake":
        operate(project, repository, "dvc repro")
        check(project, repository, "dvc repro")


def state(repository: Repository) -> str:
    """Return a digest of all that counts: params.yaml, dvc.lock and the files' contents; no times."""
    files = [repository.path("params.yaml"), repository.path("dvc.lock")]
    content = [path.read_text(encoding="utf-8") for path in files]
    found = repository.digests() | repository.digests("data/plan")
    return hashlib.sha256(json.dumps([content, found]).encode()).hexdigest()


# --------------------------------------------------------------------------------------------------- every order


@dataclass
class Node:
    """A state that was reached, and how."""

    repository: Repository
    path: tuple[str, ...]


def step(project: Project, node: Node, operation: str, last: bool) -> tuple[Node, str, float]:
    """Copy a state's folder and do one operation in it; return the new node, its state, and seconds."""
    began = time.monotonic()
    path = (*node.path, operation)
    number = hashlib.sha256(" > ".join(path).encode()).hexdigest()[:12]
    repository = node.repository.copy_to(project.cache.parent / "states" / number)
    try:
        if int(number, 16) % 2:
            shuffle_times(repository, number)
        operate(project, repository, operation)
        check(project, repository, operation)
        reached = state(repository)
        if last:
            check_end(project, repository, operation)
    except Exception as error:
        raise AssertionError(f"{' > '.join(path)} (in {repository.folder}): {error}") from error
    return Node(repository, path), reached, time.monotonic() - began


def shuffle_times(repository: Repository, seed: str) -> None:
    """Give what was made other times, some of them in the future."""
    chosen, now = random.Random(seed), time.time()
    for file in repository.made("data", "results"):
        os.utime(repository.path(file), (now + chosen.uniform(-1e6, 1e4),) * 2)


def test_no_order_of_operations_mixes_configurations(project: Project) -> None:
    """Edits, branch switches, `dvc checkout`, Snakemake and `dvc repro` in any order: never is a file taken for, or
    recorded as, that of another configuration than the one it was made under.

    After each `snakemake` and `dvc repro`, scores, tables and figures are byte for byte those of a clean build of
    params.yaml; `dvc repro` leaves a clean status and records exactly these; what stands is never made again by
    either engine, whatever its file times.
    """
    start = project.origin.clone_to(project.cache.parent / "start")
    start.dvc("config", "--local", "cache.dir", str(project.cache))
    start.git("fetch", "--quiet", "origin", "other:other")
    start.dvc("fetch", "--all-branches")
    start.dvc("checkout")
    (project.cache.parent / "states").mkdir()
    level, known, edges = [Node(start, ())], {state(start)}, 0
    with ThreadPoolExecutor(2) as pool:
        for depth in range(1, DEPTH + 1):
            steps = [pool.submit(step, project, node, op, depth == DEPTH) for node in level for op in OPERATIONS]
            level = []
            for future in steps:
                node, reached, seconds = future.result()
                edges += 1
                news = "known" if reached in known else "new"
                print(f"{seconds:6.1f} s  {news:5}  {' > '.join(node.path)}", flush=True)
                if reached in known:
                    shutil.rmtree(node.repository.folder)
                else:
                    known.add(reached)
                    level.append(node)
            print(f"depth {depth}: {len(level)} new states; {edges} operations so far")
    assert len(known) > 10  # the search did go somewhere
