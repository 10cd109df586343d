"""What stands: which files of the plan are on disk, whole, and made as the plan says.

Contents decide, never times: a `git checkout`, a `dvc pull` or a `touch` changes times only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gptfluence.design import Design, provenance_file
from gptfluence.errors import UserError
from gptfluence.identity import DYNAMICS_CODE, module_digests
from gptfluence.io import canonical_json, digest, file_digest, read_provenance, write_json
from gptfluence.runs import Gang, Run

DIGESTS_FILE = Path(".snakemake/digests.json")
"""Digests of files that did not change since they were last read, by path: size, time, inode and digest."""


@dataclass
class Digests:
    """Digests of files, each read again only if its size, time or inode changed; kept between calls."""

    known: dict[str, list[Any]] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def load(cls) -> Digests:
        """Read what earlier calls know; a damaged cache is an empty one."""
        try:
            return cls(dict(json.loads(DIGESTS_FILE.read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            return cls()

    def of(self, path: str | Path) -> str | None:
        """Return a file's digest; None if there is no such file."""
        try:
            stat = Path(path).stat()
            seen = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            if self.known.get(str(path), [])[:3] != seen:
                self.known[str(path)] = [*seen, file_digest(Path(path))]
                self.changed = True
        except OSError:
            return None
        return self.known[str(path)][3]

    def save(self) -> None:
        """Keep what was learned; without a place to write, the next call reads again."""
        if self.changed:
            with contextlib.suppress(Exception):
                write_json(DIGESTS_FILE, self.known)


@dataclass(frozen=True)
class Standing:
    """The files of a plan as they are on disk.

    Attributes:
        missing: planned files that are not there, by stage.
        damaged: shards whose bytes are not the recorded ones.
        broken: gangs whose manifest is there, but not all that it lists, or not whole.
        stale: stages with plain names whose files are not, or not all, what the plan's spec makes.
    """

    missing: dict[str, list[str]]
    damaged: list[str]
    broken: dict[str, str]  # gang -> why
    stale: dict[str, str]  # stage -> why

    def stands(self, stage: str) -> bool:
        """Whether nothing is left to do for a stage."""
        broken = self.broken if stage in ("dynamics", "mislabels", "choices") else {}
        return not self.missing[stage] and not broken and stage not in self.stale


def survey(design: Design) -> Standing:
    """Look at every file of the plan; seconds for hundreds of new shards, milliseconds after that."""
    digests = Digests.load()
    missing = {stage: [file for file in files if not Path(file).exists()] for stage, files in design.stages.items()}
    damaged: list[str] = []
    broken: dict[str, str] = {}
    for gang in design.gangs.values():
        if Path(gang.manifest).is_file():
            bad, why = _check_gang(gang, digests)
            damaged += bad
            if why:
                broken[gang.gang] = why
    stale = {
        stage: why
        for stage, spec in design.plain_specs().items()
        if (why := _why_stale(design.stages[stage], spec, digests))
    }
    digests.save()
    return Standing(missing, damaged, broken, stale)


def _check_gang(gang: Gang, digests: Digests) -> tuple[list[str], str | None]:
    """Return the gang's damaged shards, and why it is to be looked after, if it is."""
    try:
        listed = json.loads(Path(gang.manifest).read_text(encoding="utf-8"))
        recorded = {run.shard: listed[run.run_id]["digest"] for run in gang.runs}
    except (OSError, ValueError, KeyError, TypeError):
        return [], f"{gang.manifest}: not readable, to be written again"
    found = {shard: digests.of(shard) for shard in recorded}
    damaged = [shard for shard, value in found.items() if value not in (None, recorded[shard])]
    absent = [shard for shard, value in found.items() if value is None]
    if damaged:
        return damaged, f"{', '.join(damaged)}: damaged (not the bytes that were recorded), to be trained again"
    return [], f"{', '.join(absent)}: missing, to be trained again" if absent else None


def _why_stale(files: list[str], spec: dict[str, Any], digests: Digests) -> str | None:
    """Return why a job with plain-named outputs has to run, None if its files are what it would make."""
    provenance = provenance_file(files[0])
    try:
        made = json.loads(Path(provenance).read_text(encoding="utf-8"))
        wanted, recorded = made["spec"], dict(made["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{provenance}: missing or not readable"
    if wanted != digest(spec):
        return f"{files[0]}: made under another configuration, or by other code"
    for file in files:
        if file != provenance and digests.of(file) != recorded.get(Path(file).name):
            return f"{file}: not what was made"
    return None


def refuse_hard_links(design: Design, standing: Standing, only: str | None = None) -> None:
    """Refuse to replace files that are write-protected hard links into DVC's cache: Snakemake would not do it.

    Root may replace them, and does no harm: every file is written beside its place and renamed.

    Args:
        design: the plan.
        standing: what stands of it.
        only: the stage that the call makes, if it makes nothing else.

    Raises:
        UserError: names the first such file among those that are to be made again, and the remedy.
    """
    stale = [stage for stage in standing.stale if only in (None, stage)]
    again = [file for stage in stale for file in design.stages[stage]]
    again += [design.gangs[gang].manifest for gang in standing.broken]
    again += design.stages["curricula"] if standing.missing["curricula"] else []  # drawn by one job
    for file in map(Path, again):
        if file.is_file() and not file.is_symlink() and file.stat().st_nlink > 1 and not os.access(file, os.W_OK):
            raise UserError(
                f"{file}: a write-protected hard link into DVC's cache, which cannot be replaced by Snakemake. Set "
                "`dvc config cache.type reflink,copy` (or symlink), then `dvc checkout --relink`."
            )


def why_renamed(design: Design) -> list[str]:
    """Say why runs are to be trained whose shards stood under another name: a line for each reason."""
    shards: dict[str, list[Path]] = {}
    for path in Path("data/dynamics").glob("*.parquet"):
        shards.setdefault(path.name.rsplit(".", 2)[0], []).append(path)  # a model's name may hold dots
    code = module_digests(*DYNAMICS_CODE)
    reasons: Counter[str] = Counter()
    for run in design.runs.values():
        former = [path for path in shards.get(run.run_id, []) if str(path) != run.shard]
        if former and not Path(run.shard).exists():
            latest = max(former, key=lambda path: path.stat().st_mtime)
            reasons[_difference(design, run, latest, code)] += 1
    return [f"{count} runs are new: {reason} (their former shards are kept)" for reason, count in reasons.items()]


def _difference(design: Design, run: Run, shard: Path, code: dict[str, str]) -> str:
    """Return what differs between a planned run and a shard of the same name."""
    try:
        made = read_provenance(shard)
    except UserError:
        return "their former shards are not readable"
    spec = design.gang_spec(run.gang)
    row = {key: value for key, value in run.row().items() if key not in ("hash", "curriculum_hash")}
    found = [key for key, value in made.get("run", {}).items() if key in row and row[key] != value]
    found += [key for key in ("optimizer", "generation") if made.get(key) != spec[key]]
    model = made.get("model", {})
    found += [f"model's {key}" for key, value in spec["model"].items() if key != "folder" and model.get(key) != value]
    tasks = {task: Path(file).name for task, file in spec["tasks"].items()}
    found += [f"task {task}" for task, file in tasks.items() if made.get("tasks", {}).get(task) != file]
    if made.get("code") != spec["code"]:
        before = made.get("modules", {})
        changed = sorted(name for name in before.keys() | code.keys() if before.get(name) != code.get(name))
        found += [f"code of {name.replace('.', '/')}.py" for name in changed]
    return f"changed: {', '.join(found)}" if found else "changed: evaluation_tokens, metrics or sizes"


def write_provenance(path: Path, rule: str, spec: dict[str, Any], outputs: list[Path]) -> None:
    """Say beside plain-named files what made them, and what they hold, so that a stale or damaged one is known."""
    made = {
        "rule": rule,
        "spec": digest(spec),
        "code": spec["code"],
        "scale": spec.get("scale"),
        "files": {output.name: file_digest(output) for output in outputs},
    }
    write_json(path, {key: value for key, value in made.items() if value is not None})


def planned_files(design: Design, stage: str) -> str:
    """Return what DVC watches of the plan for a stage, as JSON: equal text, nothing to do."""
    specs = design.plain_specs()
    plan = {"files": design.stages[stage]} | ({"spec": digest(specs[stage])} if stage in specs else {})
    return canonical_json(plan) + "\n"


def recorded_runs(design: Design, lock: Path = Path("dvc.lock")) -> bool:
    """Whether dvc.lock records exactly the plan's dynamics, so that a pull brings what else would be trained."""
    try:
        dependencies = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]["dynamics"]["deps"]
        recorded = {item["path"]: item["md5"] for item in dependencies}
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False
    planned = hashlib.md5(planned_files(design, "dynamics").encode(), usedforsecurity=False).hexdigest()
    return recorded.get("data/plan/dynamics.json") == planned
