"""The curricula of runs on chosen data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gptfluence.choices.choices_file import read_choices
from gptfluence.curricula.draw import write_curriculum
from gptfluence.errors import UserError


def write_chosen(spec: dict[str, Any], folder: Path) -> None:
    """Write the curriculum of every run on chosen data.

    Args:
        spec: runs (rows with group, and ranking: the name of a choice), choices ({group: path, see `choices_file`}).
        folder: where to write.

    Raises:
        UserError: choices cannot be read, lack one that a run names, or are of other runs.
    """
    choices = {group: read_choices(path) for group, path in spec["choices"].items()}
    for run in spec["runs"]:
        chosen, path = choices[run["group"]].get(run["ranking"]), spec["choices"][run["group"]]
        if chosen is None:
            raise UserError(f"{path}: has no choice '{run['ranking']}', which run {run['run_id']} needs")
        if chosen.examples.shape != (run["steps"], run["batch"]):
            raise UserError(f"{path}: {run['ranking']} is no curriculum of {run['steps']} batches of {run['batch']}")
        task = np.zeros(chosen.examples.shape, np.int64)
        name = Path(run["curriculum"]).name
        write_curriculum(run, task, chosen.examples, folder / name, choice=run["ranking"])
