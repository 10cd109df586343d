"""What made everything that is shown: versions of packages, digests of settings, code and files."""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from gptfluence.errors import UserError
from gptfluence.io import read_provenance
from gptfluence.report.grid import NONE, Grid, list_grid

PROVENANCE = ".provenance.json"


def versions_grid(shards: list[str]) -> Grid:
    """Return the versions of what trained the GPTs, as their shards tell, and of what made this report.

    Shards that are not here, or that tell no versions, are left out of the counts.
    """
    trained: dict[str, Counter[str]] = {}
    for shard in shards:
        for name, number in _versions_in(shard).items():
            trained.setdefault(name.lower(), Counter())[number] += 1
    here = {"python": platform.python_version()} | _installed()
    rows = [
        (name, _several(trained.get(name, Counter()), len(shards)), here.get(name, NONE))
        for name in sorted(trained.keys() | here.keys())
    ]
    return list_grid("Versions of packages", "Package", ("trained the GPTs", "made this report"), rows)


def _versions_in(shard: str) -> dict[str, str]:
    try:
        return read_provenance(shard).get("versions", {})
    except UserError:
        return {}


def _several(found: Counter[str], shards: int) -> str:
    """Return the versions, each with its number of runs where there are several, or not all runs tell."""
    if not found:
        return NONE
    if len(found) == 1 and found.total() == shards:
        return next(iter(found))
    return ", ".join(f"{number} ({runs:,} of {shards:,} runs)" for number, runs in sorted(found.items()))


def _installed() -> dict[str, str]:
    """Return the versions of this package and of what it requires, as they are installed here."""
    found = {}
    for name in ("gptfluence", *(re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in _requirements())):
        try:
            found[name.lower()] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _requirements() -> list[str]:
    try:
        return [line for line in requires("gptfluence") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        return []


def made_grids(stages: dict[str, dict[str, Any]]) -> list[Grid]:
    """Return what made the files of every stage.

    Args:
        stages: stage -> files (paths), digest (of what the plan says of them).

    Raises:
        UserError: what is said of files with plain names is missing or not readable.
    """
    plain, hashed = [], []
    for stage, planned in stages.items():
        noted = [file for file in planned["files"] if file.endswith(PROVENANCE)]
        if not noted:
            hashed.append((stage, f"{len(planned['files']):,}", planned["digest"]))
            continue
        made = _read(Path(noted[0]))
        for name, content in made["files"].items():
            path = str(Path(noted[0]).with_name(name))
            plain.append((path, made["rule"].replace("_", " "), made["spec"], made["code"], content))
    return [
        list_grid("Tables, figures and scores", "File", ("Made by", "Settings", "Code", "Content"), plain),
        list_grid("What they are made from: each name holds a digest of all that the file depends on", "Stage",
                  ("Files", "All names"), hashed),
    ]  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        return {key: made[key] for key in ("rule", "spec", "code")} | {"files": dict(made["files"])}
    except FileNotFoundError:
        raise UserError(f"{path}: missing. Run snakemake again to make it.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error}). Delete it and run snakemake again.") from None
