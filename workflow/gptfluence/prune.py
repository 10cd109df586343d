"""Find files of former plans: names hold digests, so a changed setting leaves the files of the old one behind."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from gptfluence.adopt import FOLDERS
from gptfluence.design import Design
from gptfluence.dynamics.tokens import TOKENS

SCRATCH = "data/scratch"
_DAY = 24 * 60 * 60


def former_files(design: Design) -> list[Path]:
    """Return what stands in the folders of digest-named files and is not of the plan, nor of its runs and tasks."""
    planned = {Path(file) for files in design.stages.values() for file in files}
    runs = {f"{run.run_id}.{run.hash}" for run in design.runs.values()}
    tasks = {Path(file).stem for file in design.stages["tasks"]}
    found, scratch, tokens = (
        [path for folder in folders if Path(folder).is_dir() for path in sorted(Path(folder).iterdir())]
        for folders in (FOLDERS, [SCRATCH], [TOKENS])
    )
    former = [path for path in found if path not in planned and path.name != ".gitignore"]
    former += [path for path in scratch if path.stem not in runs]
    former += [path for path in tokens if path.name.rsplit(".", 2)[0] not in tasks]
    # A hidden file is being written, or was when its job was killed: then it is not young.
    return [p for p in former if not p.name.startswith(".") or time.time() - p.stat().st_mtime > _DAY]


def prune(design: Design, delete: bool) -> str:
    """List, or delete, the files of former plans; return what to tell the user."""
    files = former_files(design)
    size = sum(part.stat().st_size for path in files for part in ([path] if path.is_file() else path.rglob("*")))
    told = f"{len(files)} files of former plans or of other scales, {size / 1e6:,.1f} MB"
    if not files:
        return f"no file but those of scale {design.params.scale}'s plan"
    if not delete:
        return "\n".join([*map(str, files), f"{told}. To delete them: gptfluence prune --delete"])
    for path in files:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return f"deleted {told}; what DVC recorded comes back with a checkout of its revision"
