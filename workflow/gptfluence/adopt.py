"""Take over what another revision recorded: after a merge, nothing that either branch computed is made again."""

from __future__ import annotations

from pathlib import Path

from gptfluence.errors import UserError
from gptfluence.io import atomic_path

FOLDERS = (
    *("data/tasks", "data/curricula", "data/models", "data/dynamics"),
    *("data/mislabels/rankings", "data/mislabels/curricula", "data/mislabels/dynamics"),
    *("data/choices/chosen", "data/choices/curricula", "data/choices/dynamics"),
    *("results/features", "results/attribution/tables", "results/attribution/kernels", "results/attribution/replays"),
    *("results/simulators", "results/simulations", "results/refits"),
)
"""Folders of files whose names hold the digest of what they are made from: those of two branches cannot clash."""


def adopt(revision: str) -> list[str]:
    """Copy each file that a git revision's dvc.lock records and this tree lacks, from DVC's cache or remote.

    Returns:
        The paths of the files that were copied.

    Raises:
        UserError: no such revision, nothing recorded there, or files that neither cache nor remote hold.
    """
    # Here, as it takes as long as all the rest.
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        files = DVCFileSystem(".", rev=revision)
        recorded = [path for folder in FOLDERS if files.exists(folder) for path in files.find(folder)]
    except (SCMError, DvcException, OSError) as error:
        raise UserError(f"{revision}: cannot be read as a revision with a dvc.lock: {error}") from None
    missing = [path for path in recorded if not Path(path).exists()]
    if not recorded:
        raise UserError(f"{revision}: its dvc.lock records no files of {', '.join(FOLDERS)}")
    for path in missing:
        try:
            with atomic_path(path) as part:
                files.get_file(path, str(part))
        except (DvcException, UserError) as error:
            raise UserError(
                f"{path}: recorded by {revision}, but not to be had ({error}). Where it was made, run dvc push."
            ) from None
    return missing
