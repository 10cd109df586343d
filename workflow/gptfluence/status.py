"""How far a plan is: which runs are done, running, failed or to do, why they failed, and what is left to pay.

Only looks: at names of files, at what running jobs tell of themselves (data/scratch) and at the ends of logs. No shard
is opened, so a damaged one counts as done here; the call that continues finds it and makes it anew.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import socket
import textwrap
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gptfluence.cost import Costs, Device, Estimate, relative_length
from gptfluence.design import Design
from gptfluence.io import METADATA_KEY
from gptfluence.runs import Gang, Run

SCRATCH = "data/scratch"

_PATIENCE = 180.0  # seconds without news after which a running run counts as dead; steps may take longer, see below
_TAIL = 4  # lines of a log that are shown
_TAIL_BYTES = 16_384
_WIDTH = 100  # columns


@dataclass(frozen=True)
class Running:
    """A run under way; `quiet` is the seconds since its last news."""

    run_id: str
    step: int
    steps: int
    host: str
    pid: int
    slurm_job: str | None
    quiet: float


@dataclass(frozen=True)
class Failure:
    """Why runs failed: one run, or all that a job had before it when it failed.

    Attributes:
        checkpoint: the step that the run goes on from, if it has one.
        log_tail: the last lines of the log.
    """

    runs: tuple[str, ...]
    message: str
    log: str
    log_tail: tuple[str, ...]
    checkpoint: int | None


@dataclass(frozen=True)
class Stopped:
    """A run to do that has a checkpoint; `checkpoint` is its step, None if the file does not tell."""

    run_id: str
    checkpoint: int | None
    steps: int


@dataclass(frozen=True)
class Row:
    """The runs of one scenario and model: counts, and what those that are not done still cost.

    Attributes:
        to_do: neither done nor running nor failed; `with_checkpoint` of them have a checkpoint.
        device: gpu or cpu.
        flops_left: floating-point operations; None where the model's shape is not known.
        measured_seconds, modelled_seconds: left on one device, by where the estimates come from.
        unknown: runs left without any estimate.
        requested_seconds: what the jobs of these runs ask of a cluster; an upper bound.
    """

    scenario: str
    model: str
    runs: int
    done: int
    running: int
    failed: int
    to_do: int
    with_checkpoint: int
    device: str
    flops_left: float | None
    measured_seconds: float
    modelled_seconds: float
    unknown: int
    requested_seconds: float


@dataclass(frozen=True)
class Status:
    """How far a plan is.

    Attributes:
        assumed_lengths: tasks whose lengths are assumed, as they are not prepared.
        unknown_models: models whose shape is not known.
        devices: the assumed speed of each kind of device.
        stages: stage -> files that stand, files planned.
    """

    scale: str
    rows: tuple[Row, ...]
    running: tuple[Running, ...]
    failures: tuple[Failure, ...]
    stopped: tuple[Stopped, ...]
    assumed_lengths: tuple[str, ...]
    unknown_models: tuple[str, ...]
    devices: dict[str, Device]
    stages: dict[str, tuple[int, int]]

    def count(self, state: str) -> int:
        """Return how many runs are in a state; `runs` counts all."""
        return sum(getattr(row, state) for row in self.rows)


# ----------------------------------------------------------------------------------------------------------- looking


@dataclass(frozen=True)
class _Progress:
    """What a run told last; see `dynamics.checkpoints.Scratch`."""

    state: str
    step: int
    resumed: int
    started: float
    updated: float
    host: str
    pid: int
    slurm_job: str | None
    message: str | None


@dataclass(frozen=True)
class _Seen:
    """A run as it is found: done, running, failed, stopped or to_do."""

    run: Run
    state: str
    progress: _Progress | None = None
    message: str | None = None
    has_checkpoint: bool = False
    checkpoint: int | None = None

    @property
    def share_left(self) -> float:
        """The share of the run's cost that is still to be paid."""
        step = self.progress.step if self.state == "running" and self.progress else self.checkpoint or 0
        return 1 - min(step / self.run.steps, 1)


def collect(design: Design, folder: Path = Path(".")) -> Status:
    """Look at what stands of a plan.

    Args:
        folder: where the plan's paths start.
    """
    costs = Costs(design, folder)
    estimates = {group: costs.estimate(group) for group in design.groups}
    seen: dict[str, _Seen] = {}
    failures: list[Failure] = []
    for gang in design.gangs.values():
        found = [_look(run, estimates[run.group], folder) for run in gang.runs]
        found, failed = _failures(gang, found, folder)
        failures += failed
        seen |= {one.run.run_id: one for one in found}
    running = tuple(
        Running(
            run_id=one.run.run_id,
            step=one.progress.step,
            steps=one.run.steps,
            host=one.progress.host,
            pid=one.progress.pid,
            slurm_job=one.progress.slurm_job,
            quiet=max(0.0, time.time() - one.progress.updated),
        )
        for one in seen.values()
        if one.state == "running" and one.progress
    )
    left = {one.run.group for one in seen.values() if one.state != "done"}
    return Status(
        scale=design.params.scale,
        rows=tuple(_rows(design, seen.values(), estimates)),
        running=running,
        failures=tuple(failures),
        stopped=tuple(
            Stopped(one.run.run_id, one.checkpoint, one.run.steps)
            for one in seen.values()
            if one.state == "to_do" and one.has_checkpoint
        ),
        assumed_lengths=tuple(sorted(costs.assumed)),
        unknown_models=tuple(
            sorted({design.groups[name].model for name in left if estimates[name].basis == "unknown"})
        ),
        devices=costs.devices,
        stages={
            stage: (sum((folder / file).exists() for file in files), len(files))
            for stage, files in design.stages.items()
        },
    )


def _look(run: Run, estimate: Estimate, folder: Path) -> _Seen:
    """Say how a run is found, its job's log left aside."""
    if (folder / run.shard).is_file():
        return _Seen(run, "done")
    base = folder / SCRATCH / f"{run.run_id}.{run.hash}"
    progress = _read_progress(base.with_name(f"{base.name}.json"))
    path = base.with_name(f"{base.name}.safetensors")
    if progress and progress.state == "running" and _is_alive(progress, run, estimate):
        return _Seen(run, "running", progress, has_checkpoint=path.is_file())
    has_checkpoint = path.is_file()
    kept = {"has_checkpoint": has_checkpoint, "checkpoint": _checkpoint_step(path) if has_checkpoint else None}
    if progress and progress.state == "running":
        message = (
            f"ended without a word at step {progress.step} of {run.steps} "
            "(killed, out of memory, or its node went down)"
        )
        return _Seen(run, "failed", progress, message, **kept)
    if progress and progress.state == "failed":
        return _Seen(run, "failed", progress, progress.message or "failed without a message", **kept)
    return _Seen(run, "to_do", progress, **kept)


def _read_progress(path: Path) -> _Progress | None:
    """Return what a run told last; None where it told nothing, or nothing that can be read."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        job, message = told.get("slurm_job"), told.get("message")
        return _Progress(
            state=str(told["state"]),
            step=int(told["step"]),
            resumed=int(told.get("resumed", 0)),
            started=float(told["started"]),
            updated=float(told["updated"]),
            host=str(told["host"]),
            pid=int(told["pid"]),
            slurm_job=None if job is None else str(job),
            message=None if message is None else str(message),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _is_alive(progress: _Progress, run: Run, estimate: Estimate) -> bool:
    """Whether a run that says that it is running has told so lately and, if it is on this machine, has a process."""
    steps = progress.step - progress.resumed
    # News come between steps; those of big models take minutes.
    a_step = (progress.updated - progress.started) / steps if steps > 0 else (estimate.seconds or 0) / (run.steps + 1)
    if time.time() - progress.updated > max(_PATIENCE, 3 * a_step):
        return False
    return progress.host != socket.gethostname() or _is_ours(progress.pid)


def _is_ours(pid: int) -> bool:
    """Whether a process of this machine lives and trains runs: numbers are given again to others."""
    if pid <= 0:
        return False
    if Path("/proc/self/cmdline").is_file():
        try:
            return b"train_runs" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _checkpoint_step(path: Path) -> int | None:
    """Return the step of a checkpoint from the head of its file; None where it does not tell."""
    try:
        with safe_open(path, framework="np") as file:
            return int(json.loads((file.metadata() or {})[METADATA_KEY.decode()])["content"]["step"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _failures(gang: Gang, found: list[_Seen], folder: Path) -> tuple[list[_Seen], list[Failure]]:
    """Return the runs of a gang with what its log says of them, and the gang's failures."""
    states = Counter(one.state for one in found)
    if not states["failed"] and not states["to_do"]:
        return found, []
    tail, written = _tail(folder / gang.log)
    failed = [one for one in found if one.state == "failed"]
    failures = [Failure((one.run.run_id,), one.message or "", gang.log, tail, one.checkpoint) for one in failed]
    message = tail[-1].removeprefix("error: ") if tail and tail[-1].startswith("error: ") else None
    if failed or states["running"] or message is None or message.startswith("interrupted"):
        return found, failures
    # The job failed, and no run says that it did so in it: all that it had before it. A run that was stopped later
    # than that has told more lately.
    hit = [one for one in found if one.state == "to_do" and (one.progress is None or one.progress.updated <= written)]
    if not hit:
        return found, []
    failure = Failure(tuple(one.run.run_id for one in hit), message, gang.log, tail, None)
    names = set(failure.runs)
    found = [
        dataclasses.replace(one, state="failed", message=message) if one.run.run_id in names else one for one in found
    ]
    return found, [failure]


def _tail(path: Path) -> tuple[tuple[str, ...], float]:
    """Return the last lines of a log that are not empty, and when it was written; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
            written = os.fstat(file.fileno()).st_mtime
    except OSError:
        return (), 0.0
    # A log may hold anything; what a terminal would obey does not belong on one.
    lines = [re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", line).strip() for line in lines]
    return tuple([line for line in lines if line][-_TAIL:]), written


def _rows(design: Design, seen: Iterable[_Seen], estimates: dict[str, Estimate]) -> Iterable[Row]:
    def place(one: _Seen) -> tuple[str, str]:
        return one.run.scenario, one.run.model

    order = {key: i for i, key in enumerate(dict.fromkeys((g.scenario, g.model) for g in design.groups.values()))}
    ordered = sorted(seen, key=lambda one: order[place(one)])
    for (scenario, model), members in itertools.groupby(ordered, place):
        runs = list(members)
        states = Counter(one.state for one in runs)
        row = design.machine(model)
        left = [
            (one.share_left * relative_length(design, one.run), estimates[one.run.group])
            for one in runs
            if one.state != "done"
        ]
        seconds = Counter({"measured": 0.0, "modelled": 0.0})
        for share, estimate in left:
            seconds[estimate.basis] += share * (estimate.seconds or 0)
        flops = [share * estimate.flops if estimate.flops is not None else None for share, estimate in left]
        yield Row(
            scenario=scenario,
            model=model,
            runs=len(runs),
            done=states["done"],
            running=states["running"],
            failed=states["failed"],
            to_do=states["to_do"],
            with_checkpoint=sum(one.has_checkpoint for one in runs if one.state == "to_do"),
            device="gpu" if row.gpu else "cpu",
            flops_left=None if None in flops else sum(f for f in flops if f is not None),
            measured_seconds=seconds["measured"],
            modelled_seconds=seconds["modelled"],
            unknown=sum(estimate.basis == "unknown" for _, estimate in left),
            requested_seconds=60.0 * row.runtime_min * len(left),
        )


# ----------------------------------------------------------------------------------------------------------- telling


def as_json(status: Status) -> dict[str, Any]:
    """Return the status as JSON-able values; times in seconds, hours of one device."""
    rows = [dataclasses.asdict(row) for row in status.rows]
    return {
        "scale": status.scale,
        "runs": {
            "total": status.count("runs"),
            **{state: status.count(state) for state in ("done", "running", "failed", "to_do", "with_checkpoint")},
        },
        "models": rows,
        "running": [dataclasses.asdict(run) for run in status.running],
        "failures": [_lists(dataclasses.asdict(failure)) for failure in status.failures],
        "stopped": [dataclasses.asdict(run) for run in status.stopped],
        "left": {device: _left(status, device) for device in ("gpu", "cpu")},
        "assumptions": {
            "devices": {kind: dataclasses.asdict(device) for kind, device in status.devices.items()},
            "lengths": list(status.assumed_lengths),
            "unknown_models": list(status.unknown_models),
        },
        "stages": {stage: {"standing": there, "planned": all_} for stage, (there, all_) in status.stages.items()},
        "next": _next_steps(status),
    }


def _lists(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}


def _left(status: Status, device: str) -> dict[str, Any]:
    """Return what is left for one kind of device."""
    rows = [row for row in status.rows if row.device == device]
    flops = [row.flops_left for row in rows]
    return {
        "runs": sum(row.running + row.failed + row.to_do for row in rows),
        "flops": None if None in flops else sum(value for value in flops if value is not None),
        "measured_hours": sum(row.measured_seconds for row in rows) / 3600,
        "modelled_hours": sum(row.modelled_seconds for row in rows) / 3600,
        "unknown_runs": sum(row.unknown for row in rows),
        "requested_hours": sum(row.requested_seconds for row in rows) / 3600,
    }


def render(status: Status, failures: int = 5) -> str:
    """Return the status as text of at most 100 columns (paths and names that are longer stand whole).

    Args:
        failures: most failures, running runs and stopped runs that are shown; all are counted.
    """
    parts = [_header(status), _table(status)]
    if status.running:
        lines = [
            f"  {run.run_id}: step {run.step} of {run.steps}, {_where(run)}, told {_duration(run.quiet)} ago"
            for run in status.running
        ]
        parts.append("\n".join(["running:", *_first(lines, failures)]))
    if status.failures:
        blocks = ["\n".join(_failure_lines(failure)) for failure in status.failures]
        parts.append("\n".join(["failed:", *_first(blocks, failures)]))
    if status.stopped:
        lines = [f"  {run.run_id}: {_goes_on(run.checkpoint)} of {run.steps}" for run in status.stopped]
        parts.append("\n".join(["stopped, with a checkpoint:", *_first(lines, failures)]))
    if status.count("done") < status.count("runs"):
        parts.append("\n".join(_cost_lines(status)))
    parts.append("\n".join([*_stage_lines(status), *(_wrapped(f"next: {step}") for step in _next_steps(status))]))
    return "\n\n".join(parts) + "\n"


def _header(status: Status) -> str:
    counted = [f"{status.count(state)} {state.replace('_', ' ')}" for state in ("done", "running", "failed", "to_do")]
    kept = status.count("with_checkpoint")
    checkpoints = f" ({kept} of them with a checkpoint)" if kept else ""
    return f"scale {status.scale}: {status.count('runs')} runs: {', '.join(counted)}{checkpoints}"


def _table(status: Status) -> str:
    head = ("scenario", "model", "runs", "done", "running", "failed", "to do", "FLOPs", "on", "measured", "modelled")
    lines = [head]
    for row in status.rows:
        counts = (row.runs, row.done, row.running, row.failed, row.to_do)
        lines.append(
            (
                row.scenario,
                row.model if len(row.model) <= 20 else f"{row.model[:17]}...",
                *map(str, counts),
                "?" if row.flops_left is None else f"{row.flops_left:.1e}" if row.flops_left else "-",
                row.device.upper(),
                _duration(row.measured_seconds) if row.measured_seconds else "-",
                _duration(row.modelled_seconds) if row.modelled_seconds else "?" if row.unknown else "-",
            )
        )
    totals = [str(status.count(state)) for state in ("runs", "done", "running", "failed", "to_do")]
    lines.append(("all", "", *totals, "", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        " ".join(cell.ljust(width) if i in (0, 1, 8) else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]  # fmt: skip
    start = sum(widths[:7]) + 7  # above what is left to pay
    return "\n".join([" " * start + "left, time of one device:", *texts])


def _where(run: Running) -> str:
    return f"SLURM job {run.slurm_job} on {run.host}" if run.slurm_job else f"process {run.pid} on {run.host}"


def _goes_on(checkpoint: int | None) -> str:
    return f"goes on from step {checkpoint}" if checkpoint is not None else "has a checkpoint, not known of which step,"


def _failure_lines(failure: Failure) -> list[str]:
    first, *others = failure.runs
    more = f" and {len(others)} more of its job" if others else ""
    lines = [f"  {first}{more}", _wrapped(failure.message, "    ")]
    if failure.checkpoint is not None:
        lines.append(f"    {_goes_on(failure.checkpoint)}")
    if not failure.log_tail:
        return [*lines, f"    log: {failure.log} (not there, or empty)"]
    return [*lines, f"    log: {failure.log}", *(_clipped(f"    | {line}") for line in failure.log_tail)]


def _cost_lines(status: Status) -> list[str]:
    lines = []
    for kind in ("gpu", "cpu"):
        left = _left(status, kind)
        if not left["runs"]:
            continue
        seconds = {name: 3600 * left[f"{name}_hours"] for name in ("measured", "modelled", "requested")}
        known = " + ".join(f"{_duration(seconds[name])} {name}" for name in ("measured", "modelled") if seconds[name])
        unknown = f", {left['unknown_runs']} runs not estimated" if left["unknown_runs"] else ""
        flops = f", {left['flops']:.1e} floating-point operations" if left["flops"] else ""
        ask = f"jobs ask for at most {_duration(seconds['requested'])}"
        lines.append(_wrapped(f"left on one {kind.upper()}: {known or 'not known'}{unknown}{flops}; {ask}"))
    if any(row.measured_seconds for row in status.rows):
        lines.append("measured: from the finished jobs of the same scenario and model")
    for kind in sorted({row.device for row in status.rows if row.modelled_seconds}):
        device = status.devices[kind]
        lines.append(
            _wrapped(
                f"modelled, {kind.upper()}: operations / ({device.tflops:g} TFLOPS x {device.utilisation:g}), or bytes "
                f"/ {device.gb_per_s:g} GB/s where that is longer, + {device.layer_ms:g} ms each time that a layer is "
                "called; assumed, not measured (dynamics.cost)"
            )
        )
    if status.assumed_lengths and any(row.flops_left for row in status.rows):
        lines.append(
            _wrapped(f"assumed, as not prepared yet: how long the texts of {', '.join(status.assumed_lengths)} are")
        )
    if status.unknown_models:
        names = ", ".join(status.unknown_models)
        lines.append(
            _wrapped(f"not estimated, as neither dynamics.models (key shape) nor a file tells their size: {names}")
        )
    return lines


def _stage_lines(status: Status) -> list[str]:
    """Say how many files of each stage but dynamics stand; table_1, table_2, ... are told as one."""
    sums: dict[str, list[int]] = {}
    for stage, (there, planned) in status.stages.items():
        if stage != "dynamics":
            entry = sums.setdefault(re.sub(r"_\d+$", "s", stage), [0, 0])
            entry[0] += there
            entry[1] += planned
    counted = ", ".join(f"{stage} {there}/{planned}" for stage, (there, planned) in sums.items())
    return [_wrapped(f"files of the other stages: {counted}")] if counted else []


def _next_steps(status: Status) -> list[str]:
    """Say what the user can do now."""
    steps = []
    again = "snakemake (or dvc repro) again"
    if status.running:
        steps.append("wait for what is running; gptfluence status says how far it is")
    if status.failures:
        steps.append(f"mend what the failures name; {'when nothing runs, ' * bool(status.running)}{again}: it goes on")
    elif status.count("to_do") and not status.running:
        verb = "goes on" if status.count("done") or status.stopped else "begins"
        steps.append(f"snakemake --profile workflow/profiles/local (or slurm; or dvc repro) {verb}")
    elif not status.running and any(there < planned for there, planned in status.stages.values()):
        steps.append(f"all runs are done; {again} makes the rest")
    return steps or ["nothing: every file of the plan is there"]


def _first(lines: list[str], most: int) -> list[str]:
    """Return at most `most` entries, and a line that counts the others."""
    most = max(most, 0)
    rest = len(lines) - most
    return [*lines[:most], f"  ... and {rest} more (--failures {len(lines)} shows them)"] if rest > 0 else lines


def _wrapped(text: str, indent: str = "") -> str:
    return "\n".join(
        textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _clipped(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def _duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h"
