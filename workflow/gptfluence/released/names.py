"""What the release's paths tell: which run and which of its files, or which examples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from gptfluence.params import Metric

MIXTURE = "flan"
"""What the release calls the mixture of instruction tuning, and its tests of all tasks one behind the other."""
METRICS: dict[str, Metric] = {"loss": "loss", "bleu": "bleu", "rougeL": "rouge_l"}
"""Names of the release, and ours; its rouge1 and rouge2 are not read."""
TASK_NAMES = ("sst2", "rte", "boolq", "webnlg", "wmt16_de_en", "cnn_dailymail", MIXTURE)


class Trajectories(NamedTuple):
    """`all_<metric>_trajectory.out` of a preprocessed run."""

    metric: Metric


class Batches(NamedTuple):
    """`train_samples_id.json` of a preprocessed run."""


class Log(NamedTuple):
    """`log.out` of a raw run."""


class Checkpoint(NamedTuple):
    """`<loss|metric>_<task>/<loss|metric>_<task>_checkpoint-<step>.out` of a raw run."""

    task: str
    step: int


RunFile = Trajectories | Batches | Log | Checkpoint


class Samples(NamedTuple):
    """A file of examples: of a task or of the mixture, its part (train or test), and the ids that its name tells."""

    task: str
    part: str
    first: int
    last: int


_CHECKPOINT = re.compile(r"(?:loss|metric)_(?P<task>[^/]+)/(?:loss|metric)_(?P=task)_checkpoint-(?P<step>\d{1,9})\.out")
_SAMPLES = (
    re.compile(r"(?P<task>.+)_(?P<first>\d{1,9})_(?P<last>\d{1,9})_(?P<part>train|eval|dev|validation|test)\.json"),
    re.compile(r"(?P<task>.+)_(?P<part>train|eval|dev|validation|test)_(?P<first>\d{1,9})[-_](?P<last>\d{1,9})\.json"),
)


def run_file(path: PurePosixPath) -> tuple[PurePosixPath, RunFile] | None:
    """Return a run's folder and which of its files a path is; None if it is of no run."""
    name = path.name
    if len(path.parts) < 2:
        return None
    if name == "train_samples_id.json":
        return path.parent, Batches()
    if name == "log.out":
        return path.parent, Log()
    if found := re.fullmatch(r"all_(\w+)_trajectory\.out", name):
        return (path.parent, Trajectories(METRICS[found[1]])) if found[1] in METRICS else None
    if len(path.parts) > 2 and (found := _CHECKPOINT.fullmatch("/".join(path.parts[-2:]))):
        return path.parent.parent, Checkpoint(base_task(found["task"]), int(found["step"]))
    return None


def samples_file(path: PurePosixPath) -> Samples | None:
    """Return which examples a path holds; None if it holds none that a run of the plan reads."""
    for pattern in _SAMPLES:
        if (found := pattern.fullmatch(path.name)) and found["task"] in TASK_NAMES:
            part = "train" if found["part"] == "train" else "test"
            return Samples(found["task"], part, int(found["first"]), int(found["last"]))
    return None


def base_task(task: str) -> str:
    """Return the task of a name such as `rte-ood` or `webnlg_ood`."""
    return re.sub(r"[-_]ood(?:[-_]train)?$", "", task)


@dataclass(frozen=True)
class RunName:
    """What the name of a run, and of the folder that it is in, tell.

    Attributes:
        kind: fine_tuning, instruction_tuning, or other: what no simulator is fitted on.
        task: of fine-tuning; of the mixture `flan`.
        model: as in params.yaml, e.g. pythia-410m.
        seed: None where the name has none.
        unseen: whether it trained on a pool that no other run draws from.
        learning_rate: None where the name has none.
        for_mixture: whether it is a run on one task that the mixture's simulators are judged on: its ids may be those
            of the mixture.
    """

    kind: str
    task: str
    model: str
    seed: int | None
    unseen: bool
    learning_rate: float | None
    for_mixture: bool = False


def parse_run_name(folder: PurePosixPath) -> RunName:
    """Read a run's name: `output_<task>_bs-<B>_..._model-<model>_lr-<lr>_..._seed-<s>`, or what of it is there."""
    name, parent = folder.name, folder.parent.name
    whole = re.match(r"output_(.+?)_bs-\d", name)
    task = whole[1] if whole else next((t for t in TASK_NAMES if t in (base_task(parent), parent)), parent)
    unseen = base_task(task) != task or base_task(parent) != parent
    model = re.search(r"model-(.+?)(?:_|$)", name)
    rate = re.search(r"_lr-(\d+(?:\.\d+)?(?:e-?\d+)?)", name)
    seed = re.search(r"seed-(\d{1,9})(?!\d)", name) or re.search(r"(\d{1,9})$", name)
    base = base_task(task)
    known = base in TASK_NAMES and "dataset" not in name and "dataset" not in parent
    kind = "instruction_tuning" if base == MIXTURE else "fine_tuning"
    for_mixture = base != MIXTURE and base_task(parent) == MIXTURE
    return RunName(
        kind=kind if known and (unseen or not for_mixture) else "other",
        task=base,
        model=model[1].removesuffix("-deduped") if model else "",
        seed=int(seed[1]) if seed else None,
        unseen=unseen,
        learning_rate=float(rate[1]) if rate else None,
        for_mixture=for_mixture,
    )
