"""What a run keeps in data/scratch while it trains: a checkpoint to go on from, and how far it is.

A run that is stopped, whenever and however, goes on from its last checkpoint and ends in the same shard, byte for byte.
A checkpoint is the state just before a step is evaluated: what was trained, not the weights beside it, in one
safetensors file. Whatever is wrong with one costs time, never a result: the run starts anew.

A change of what a checkpoint holds must raise `_FORMAT`: this module is no part of the code that names a run.
"""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gptfluence.errors import UserError
from gptfluence.io import METADATA_KEY, atomic_path, canonical_json, write_json

LOG = logging.getLogger("gptfluence")

SCRATCH = Path("data/scratch")

_FORMAT = 1
_SECONDS_BETWEEN_PROGRESS = 5.0


@dataclass
class Training:
    """A run under way: all that changes while it trains.

    Attributes:
        model: the GPT; only its parameters that require gradients change.
        losses: [steps + 1, test examples]; known before `step`.
        texts: [2, steps + 1, test examples]; known before `step`.
        step: the step that is evaluated next; so many updates are done.
        whole: False while an update is under way, when the weights belong to no step.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: np.ndarray
    texts: np.ndarray
    step: int = 0
    whole: bool = True


# ----------------------------------------------------------------------------------------------- interruptions


class Interruptions:
    """Lets SIGTERM and SIGINT through at any moment but where the block must be whole; a context.

    A signal raises its exception (SystemExit, KeyboardInterrupt; as its handler before did) at once, so that a long
    evaluation does not delay the end; in a `held` block, at its end. The second signal does nothing: the first is
    being dealt with, and what is being written is written to its end.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._held = False
        self._waiting: int | None = None
        self._stopping: int | None = None

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():  # signals reach no other thread
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(number)
                if callable(handler):  # neither ignored nor deadly at once
                    self._handlers[number] = handler
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no signal in before the block has ended."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        # Not reached if the block failed: its error comes first, and the next check raises the signal's.
        if self._waiting is not None:
            self._deliver(self._waiting)

    def check(self) -> None:
        """Raise a signal's exception that is due: held in a block that failed, or swallowed by some library."""
        number = self._waiting or self._stopping
        if number is not None:
            self._deliver(number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._waiting = self._waiting or number
        elif self._stopping is None:
            self._deliver(number, frame)

    def _deliver(self, number: int, frame: FrameType | None = None) -> None:
        self._waiting, self._stopping = None, number
        self._handlers[number](number, frame)
        self._stopping = None  # the handler raised nothing: to go on is what it wants


# --------------------------------------------------------------------------------------------------- checkpoints


class Unusable(Exception):
    """A checkpoint that no run can go on from, and why."""


def save_checkpoint(path: Path, training: Training, origin: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        training: whole, not in an update.
        origin: JSON-able; what must be the same where the run goes on.

    Raises:
        UserError: it cannot be written.
    """
    tensors = _tensors(training)
    content = {
        "format": _FORMAT,
        "origin": origin,
        "step": training.step,
        "schedule": training.schedule.state_dict(),
        "rates": [group["lr"] for group in training.optimizer.param_groups],
    }
    arrays = ((name, tensors[name].numpy()) for name in sorted(tensors))
    header = {"content": content, "checksum": _checksum(content, arrays)}
    with atomic_path(path) as part:
        save_file(tensors, part, {METADATA_KEY.decode(): canonical_json(header)})


def load_checkpoint(path: Path, training: Training, origin: dict[str, Any]) -> None:
    """Put a run that is about to begin into the state of a checkpoint; it is unchanged if that fails.

    Raises:
        FileNotFoundError: there is none.
        Unusable: it is damaged, or not of this run, code or machine.
    """
    if not os.path.exists(path):  # also False where it cannot be known
        raise FileNotFoundError(path)
    with contextlib.ExitStack() as open_file:
        with _damage_named():
            # As arrays: the file is opened once, so another process may replace it at any time.
            file = open_file.enter_context(safe_open(path, framework="np"))
            content = _checked(file, training, origin)
        _restore(training, content, file)


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"damaged: {str(error) or type(error).__name__}") from None


def _checked(file: safe_open, training: Training, origin: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's header says, once header and tensors are found to be right."""
    header = json.loads((file.metadata() or {})[METADATA_KEY.decode()])
    content = header["content"]
    if content["format"] != _FORMAT:
        raise Unusable("written by another version of this code")
    other = [key for key, value in origin.items() if content["origin"].get(key) != value]
    if other:
        raise Unusable(f"written by a run of another {' and '.join(other)}")
    names = sorted(file.keys())
    if _checksum(content, ((name, file.get_tensor(name)) for name in names)) != header["checksum"]:
        raise Unusable("damaged: its checksum is not that of its contents")
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    if shapes != _expected_shapes(names, content["step"], training) or not 0 < content["step"] < len(training.losses):
        raise Unusable("damaged: its tensors are not this run's")
    return content


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _random_states(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the states of the generators that dropout draws from."""
    device = next(model.parameters()).device
    states = {"random/cpu": torch.get_rng_state()}
    return states | ({"random/cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _tensors(training: Training) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors on the CPU; those that are there already are not copied."""
    tensors = _random_states(training.model)
    for name, parameter in _trained(training.model).items():
        tensors[f"parameters/{name}"] = parameter.detach()
        for key, value in training.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    tensors["losses"] = torch.from_numpy(training.losses[: training.step])
    tensors["texts"] = torch.from_numpy(training.texts[:, : training.step])
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _checksum(content: dict[str, Any], arrays: Iterable[tuple[str, np.ndarray]]) -> int:
    """Return a sum that finds any accident: a flipped bit, or a part of another file."""
    value = zlib.crc32(canonical_json(content).encode())
    for name, array in arrays:
        value = zlib.crc32(f"{name} {array.dtype} {list(array.shape)}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8), value)
    return value


def _expected_shapes(names: Sequence[str], step: int, training: Training) -> dict[str, tuple[int, ...]]:
    trained = _trained(training.model)
    size = training.losses.shape[1]
    expected = {name: tuple(state.shape) for name, state in _random_states(training.model).items()}
    expected |= {f"parameters/{name}": tuple(parameter.shape) for name, parameter in trained.items()}
    expected |= {"losses": (step, size), "texts": (2, step, size)}
    for name in names:
        if name.startswith("optimizer/"):  # nothing of a parameter that has had no gradient yet
            _, key, parameter = name.split("/", 2)
            expected[name] = () if key == "step" else tuple(trained[parameter].shape)
    return expected


@torch.no_grad()
def _restore(training: Training, content: dict[str, Any], file: safe_open) -> None:
    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(file.get_tensor(name))

    trained = _trained(training.model)
    for name, parameter in trained.items():
        parameter.copy_(tensor(f"parameters/{name}"))
    for full_name in file.keys():  # noqa: SIM118 (not a mapping)
        if full_name.startswith("optimizer/"):
            _, key, name = full_name.split("/", 2)
            value = tensor(full_name)
            # The count of steps is one number; the moments lie as their parameter does.
            like = trained[name]
            place = torch.empty_like(value, device=like.device) if key == "step" else torch.empty_like(like)
            training.optimizer.state[trained[name]][key] = place.copy_(value)
    for group, rate in zip(training.optimizer.param_groups, content["rates"], strict=True):
        group["lr"] = rate
    training.schedule.load_state_dict(content["schedule"])
    device = next(training.model.parameters()).device
    torch.set_rng_state(tensor("random/cpu"))
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensor("random/cuda"), device)
    training.step = content["step"]
    training.losses[: training.step] = file.get_tensor("losses")
    training.texts[:, : training.step] = file.get_tensor("texts")


# ------------------------------------------------------------------------------------------------------- scratch


class Scratch:
    """The files that a run keeps in data/scratch, and when they are written.

    Two processes may train the same run (a job that outlived the Snakemake that started it): each file is replaced
    whole, either's checkpoint serves both, and a file that the other has removed is not missed.

    Args:
        run: the run's row.
        origin: what must be the same where the run goes on, beside the run: code, device, versions.
        minutes: between two checkpoints.
    """

    def __init__(
        self, run: dict[str, Any], origin: dict[str, Any], minutes: float, interruptions: Interruptions
    ) -> None:
        self._run, self._interruptions = run, interruptions
        self._origin = {"run_id": run["run_id"], "hash": run["hash"]} | origin
        self._checkpoint, self._progress = scratch_files(run)
        self._seconds = 60 * minutes
        self._training: Training | None = None
        self._saved = self._resumed = 0  # steps
        self._started = time.time()
        self._next_save = self._next_telling = 0.0
        self._warned = False

    def start(self, training: Training) -> None:
        """Go on from the run's checkpoint, if there is one that can be used, and say that the run is under way."""
        _remove_parts(self._checkpoint, self._progress)
        try:
            load_checkpoint(self._checkpoint, training, self._origin)
        except FileNotFoundError:
            pass
        except Unusable as why:
            LOG.warning("%s: %s; run %s starts anew", self._checkpoint, why, self._run["run_id"])
        else:
            LOG.info("run %s: goes on from step %d of %d", self._run["run_id"], training.step, self._run["steps"])
        self._training = training
        self._saved = self._resumed = training.step
        self._next_save = time.monotonic() + self._seconds
        with self._interruptions.held():
            self._tell("running")

    def between_steps(self, settle: Callable[[], None]) -> None:
        """Write what is due; most often that is nothing, and costs a look at the clock.

        Args:
            settle: called before a checkpoint is written, so that all before `step` is known.
        """
        self._interruptions.check()
        now = time.monotonic()
        if now >= self._next_telling:
            with self._interruptions.held():
                self._tell("running")
        assert self._training is not None
        if now >= self._next_save and self._training.step > self._saved:
            with self._interruptions.held():
                settle()
                self._save()

    def keep(self) -> None:
        """Write what the run has reached, if it is whole."""
        assert self._training is not None
        if self._training.whole and self._training.step > self._saved:
            self._save()

    def stop(self) -> None:
        """Keep what an interrupted run has reached: all of it but the step that was being evaluated."""
        self.keep()
        goes_on = f"goes on from step {self._saved}" if self._saved else "starts anew"
        LOG.info("run %s: interrupted at step %d; next time, it %s", self._run["run_id"], self._training.step, goes_on)
        self._tell("stopped", f"interrupted; next time, it {goes_on}")

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Do the block, which writes the run's shard, wholly or not at all; then nothing is left in scratch."""
        with self._interruptions.held():
            try:
                yield
            except UserError:
                # Another process that trained the same run may have cleared away what this one was writing.
                if not Path(self._run["shard"]).exists():
                    raise
            clear_scratch(self._run)

    def fail(self, message: str) -> None:
        """Say that the run failed, and why; its last checkpoint is kept."""
        with self._interruptions.held():
            self._tell("failed", message)

    def _save(self) -> None:
        assert self._training is not None
        if Path(self._run["shard"]).exists():  # another process was faster; none will come to remove what is left
            return
        began = time.monotonic()
        try:
            save_checkpoint(self._checkpoint, self._training, self._origin)
            self._saved = self._training.step
        except (UserError, RuntimeError, MemoryError) as error:
            self._warn(error)
        else:
            LOG.info("run %s: checkpoint before step %d, written in %.1f s",
                     self._run["run_id"], self._training.step, time.monotonic() - began)  # fmt: skip
        self._next_save = time.monotonic() + self._seconds

    def _tell(self, state: str, message: str | None = None) -> None:
        progress = {
            "run_id": self._run["run_id"],
            "hash": self._run["hash"],
            "state": state,
            "step": self._training.step if self._training else 0,
            "steps": self._run["steps"],
            "resumed": self._resumed,  # the step that this process began with
            "started": self._started,
            "updated": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "message": message,
        }
        try:
            write_json(self._progress, progress)
        except UserError as error:
            self._warn(error)
        self._next_telling = time.monotonic() + _SECONDS_BETWEEN_PROGRESS

    def _warn(self, error: Exception) -> None:
        """Say once that scratch cannot be written: the run itself does not need it."""
        if not self._warned:
            LOG.warning("%s Run %s goes on; if stopped, it may have to start anew.", error, self._run["run_id"])
        self._warned = True


def scratch_files(run: dict[str, Any]) -> tuple[Path, Path]:
    """Return the paths of a run's checkpoint and of its progress."""
    name = f"{run['run_id']}.{run['hash']}"
    return SCRATCH / f"{name}.safetensors", SCRATCH / f"{name}.json"


def clear_scratch(run: dict[str, Any]) -> None:
    """Remove all that attempts at a run whose shard stands have left behind; what cannot be removed stays."""
    files = scratch_files(run)
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    _remove_parts(*files, Path(run["shard"]))


def _remove_parts(*paths: Path) -> None:
    """Remove what a killed process had begun to write; one that lives and writes it now only loses a checkpoint."""
    for path in paths:
        for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
