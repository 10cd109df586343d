"""What `gptfluence status` says of a folder in which every state of a run stands as real files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gptfluence.design import Design, make_design
from gptfluence.dynamics.checkpoints import Interruptions, Scratch, Training
from gptfluence.params import load_params
from gptfluence.runs import Gang, Run
from gptfluence.status import Failure, Status, as_json, collect, render

SLEEPER = [sys.executable, "-c", "import time; time.sleep(120)", "gptfluence", "train_runs"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is where the plan's paths start."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def design(tiny_params: dict[str, Any], root: Path) -> Design:
    return make_design(load_params(tiny_params, root / "params.yaml"))


@pytest.fixture
def job() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line is that of a job of ours."""
    process = subprocess.Popen(SLEEPER)
    yield process
    process.kill()
    process.wait()


def gang_of(design: Design, scenario: str, number: int = 0) -> Gang:
    return [gang for gang in design.gangs.values() if gang.runs[0].scenario == scenario][number]


def finish(run: Run) -> None:
    """Let a shard stand; status does not look inside."""
    Path(run.shard).parent.mkdir(parents=True, exist_ok=True)
    Path(run.shard).touch()


def tell(run: Run, state: str, step: int, checkpoint: int | None = None, **changes: Any) -> Path:
    """Leave in data/scratch what a run leaves that is in a state, through the trainer's own code.

    Args:
        step: the run's step.
        checkpoint: the step of its checkpoint, if it has one.
        changes: of what it told.
    """
    with Interruptions() as interruptions:
        scratch = Scratch(run.row(), {}, 10.0, interruptions)
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        size = run.steps + 1
        training = Training(
            model, optimizer, schedule, np.zeros((size, 3), np.float32), np.zeros((2, size, 3), np.float32)
        )
        scratch.start(training)
        if checkpoint is not None:
            training.step = checkpoint
            scratch.stop()
        training.step = step
        if state == "failed":
            scratch.fail(changes.pop("message"))
    path = Path(f"data/scratch/{run.run_id}.{run.hash}.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    if state == "running":
        told |= {"state": "running", "step": step, "message": None}
    assert told["state"] == state
    path.write_text(json.dumps(told | changes), encoding="utf-8")
    return path


def write_log(gang: Gang, text: str) -> None:
    Path(gang.log).parent.mkdir(parents=True, exist_ok=True)
    Path(gang.log).write_text(text, encoding="utf-8")


def states(status: Status) -> dict[str, int]:
    names = ("runs", "done", "running", "failed", "to_do", "with_checkpoint")
    return {name: status.count(name) for name in names}


def counts(runs: int, **others: int) -> dict[str, int]:
    return {"runs": runs, "done": 0, "running": 0, "failed": 0, "to_do": 0, "with_checkpoint": 0} | others


# ----------------------------------------------------------------------------------------------------------- states


def test_nothing_on_disk_is_all_to_do(design: Design, folder: Path) -> None:
    status = collect(design)
    assert states(status) == counts(11, to_do=11)
    assert not (status.running or status.failures or status.stopped)
    assert {row.scenario: row.to_do for row in status.rows} == {"fine_tuning": 6, "instruction_tuning": 5}
    assert all(there == 0 for there, _ in status.stages.values())
    text = render(status)
    assert text.startswith("scale tiny: 11 runs: 0 done, 0 running, 0 failed, 11 to do\n")
    assert "assumed, as not prepared yet" in text
    assert list(folder.iterdir()) == []  # it only looks


def test_all_done(design: Design, folder: Path) -> None:
    for run in design.runs.values():
        finish(run)
    status = collect(design)
    assert states(status) == counts(11, done=11)
    assert [row.measured_seconds + row.modelled_seconds + row.requested_seconds for row in status.rows] == [0, 0]
    text = render(status)
    assert "left on one" not in text
    assert "all runs are done; snakemake (or dvc repro) again makes the rest" in text
    for files in design.stages.values():
        for file in files:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).touch()
    assert "next: nothing: every file of the plan is there" in render(collect(design))


def test_every_state_at_once(design: Design, folder: Path, job: subprocess.Popen[bytes]) -> None:
    gang = gang_of(design, "fine_tuning")
    done, running, failed, stopped = gang.runs
    finish(done)
    finish(running)
    Path(running.shard).unlink()
    tell(running, "running", step=1, pid=job.pid)
    tell(failed, "failed", step=1, checkpoint=1, message="run x: out of memory. Lower evaluation_tokens.")
    tell(stopped, "stopped", step=1, checkpoint=1)
    write_log(gang, "12:00:01 begins\n\n  12:00:02 goes on  \nline 3\nline 4\nerror: run x: out of memory. Lower it.\n")
    status = collect(design)
    assert states(status) == counts(11, done=1, running=1, failed=1, to_do=8, with_checkpoint=1)
    (alive,) = status.running
    assert (alive.run_id, alive.step, alive.pid) == (running.run_id, 1, job.pid)
    assert alive.host == socket.gethostname() and alive.quiet < 60
    (failure,) = status.failures
    assert failure == Failure(
        runs=(failed.run_id,),
        message="run x: out of memory. Lower evaluation_tokens.",
        log=gang.log,
        log_tail=("12:00:02 goes on", "line 3", "line 4", "error: run x: out of memory. Lower it."),
        checkpoint=1,
    )
    (kept,) = status.stopped
    assert (kept.run_id, kept.checkpoint, kept.steps) == (stopped.run_id, 1, stopped.steps)
    text = render(status)
    assert "scale tiny: 11 runs: 1 done, 1 running, 1 failed, 8 to do (1 of them with a checkpoint)" in text
    assert f"{running.run_id}: step 1 of {running.steps}, process {job.pid} on" in text
    for expected in (failed.run_id, failure.message, gang.log, "| line 3", "goes on from step 1"):
        assert expected in text
    assert f"{stopped.run_id}: goes on from step 1 of {stopped.steps}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_run_that_is_silent_or_whose_process_is_gone_has_failed(
    design: Design, folder: Path, job: subprocess.Popen[bytes]
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    runs = gang_of(design, "fine_tuning").runs
    elsewhere = {"host": "node-17", "pid": 1, "slurm_job": "4711"}
    old = {"updated": time.time() - 600, "started": time.time() - 640}
    try:
        tell(runs[0], "running", step=1, pid=gone.pid)
        tell(runs[1], "running", step=1, pid=other.pid)  # the number was given to somebody else
        tell(runs[2], "running", step=1, **elsewhere, **old)
        tell(runs[3], "running", step=1, **elsewhere)
        status = collect(design)
    finally:
        other.kill()
        other.wait()
    assert states(status) == counts(11, running=1, failed=3, to_do=7)
    assert [run.run_id for run in status.running] == [runs[3].run_id]
    assert "SLURM job 4711 on node-17" in render(status)
    assert [failure.runs[0] for failure in status.failures] == [run.run_id for run in runs[:3]]
    for failure in status.failures:
        said = f"ended without a word at step 1 of {runs[0].steps} (killed, out of memory, or its node went down)"
        assert failure.message == said
        assert failure.log_tail == ()
    tell(runs[2], "running", step=1, pid=job.pid, **old)  # a process that hangs
    assert collect(design).count("running") == 1


def test_a_run_of_slow_steps_is_given_time(design: Design, folder: Path) -> None:
    run = gang_of(design, "fine_tuning").runs[0]
    now = time.time()
    slow = {"host": "node-17", "started": now - 1200, "updated": now - 600}
    tell(run, "running", step=2, **slow)  # five minutes a step
    assert collect(design).count("running") == 1
    tell(run, "running", step=2, **slow | {"started": now - 620})
    assert collect(design).count("running") == 0


@pytest.mark.parametrize(
    "content", ["", '{"run_id": "a", "sta', "[]", "null", "{}", '{"state": 1, "step": "x"}', "\0\0\0", '{"step": NaN}']
)
def test_a_broken_progress_file_is_no_news(design: Design, folder: Path, content: str) -> None:
    run = gang_of(design, "fine_tuning").runs[0]
    path = tell(run, "stopped", step=1, checkpoint=1)
    path.write_text(content, encoding="utf-8")
    status = collect(design)
    assert states(status) == counts(11, to_do=11, with_checkpoint=1)
    assert status.stopped[0].checkpoint == 1  # its checkpoint tells


def test_a_broken_checkpoint_is_counted_but_tells_no_step(design: Design, folder: Path) -> None:
    run = gang_of(design, "fine_tuning").runs[0]
    path = tell(run, "stopped", step=1, checkpoint=1).with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:50])
    status = collect(design)
    assert status.stopped[0].checkpoint is None
    assert "has a checkpoint, not known of which step" in render(status)


def test_scratch_of_another_configuration_is_not_looked_at(design: Design, folder: Path) -> None:
    run = gang_of(design, "fine_tuning").runs[0]
    path = tell(run, "failed", step=1, message="of old")
    path.rename(path.with_name(f"{run.run_id}.000000000000.json"))
    assert states(collect(design)) == counts(11, to_do=11)


# ------------------------------------------------------------------------------------------------------------- logs


def test_a_job_that_failed_before_any_run_is_one_failure(design: Design, folder: Path) -> None:
    gang = gang_of(design, "fine_tuning")
    finish(gang.runs[0])
    write_log(gang, "12:00:01 begins\nerror: model gone: cannot be loaded: no such folder\n")
    status = collect(design)
    assert states(status) == counts(11, done=1, failed=3, to_do=7)
    (failure,) = status.failures
    assert failure.runs == tuple(run.run_id for run in gang.runs[1:])
    assert failure.message == "model gone: cannot be loaded: no such folder"
    assert f"{gang.runs[1].run_id} and 2 more of its job" in render(status)


def test_the_runs_behind_a_failed_one_are_to_do(design: Design, folder: Path) -> None:
    gang = gang_of(design, "fine_tuning")
    finish(gang.runs[0])
    tell(gang.runs[1], "failed", step=1, message="its curriculum is damaged")
    write_log(gang, "error: its curriculum is damaged\n")
    assert states(collect(design)) == counts(11, done=1, failed=1, to_do=9)


@pytest.mark.parametrize("text", ["error: interrupted; run the same command again to go on", "all is well", ""])
def test_an_interrupted_or_silent_job_has_not_failed(design: Design, folder: Path, text: str) -> None:
    write_log(gang_of(design, "fine_tuning"), f"12:00:01 begins\n{text}\n")
    assert states(collect(design)) == counts(11, to_do=11)


def test_what_was_told_last_counts(design: Design, folder: Path) -> None:
    gang = gang_of(design, "fine_tuning")
    write_log(gang, "error: no space left\n")
    told = tell(gang.runs[0], "stopped", step=1, checkpoint=1, updated=time.time() + 60)
    assert states(collect(design)) == counts(11, failed=3, to_do=8, with_checkpoint=1)
    told.write_text(json.dumps(json.loads(told.read_text()) | {"updated": time.time() - 60}), encoding="utf-8")
    assert states(collect(design)) == counts(11, failed=4, to_do=7)


def test_a_log_cannot_command_the_terminal(design: Design, folder: Path) -> None:
    gang = gang_of(design, "fine_tuning")
    Path(gang.log).parent.mkdir(parents=True)
    Path(gang.log).write_bytes(b"x" * 50_000 + b"\n\x1b[2Jboo \xff\xfe\rback\n" + b"y" * 300 + b"\nerror: broken\n")
    text = render(collect(design))
    assert "\x1b" not in text and "\r" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "error: broken" in text


# ------------------------------------------------------------------------------------------------------------- cost


def test_what_was_trained_already_is_not_paid_again(design: Design, folder: Path) -> None:
    run = gang_of(design, "instruction_tuning").runs[0]
    whole = collect(design).rows[1]
    tell(run, "stopped", step=run.steps // 2, checkpoint=run.steps // 2)
    part = collect(design).rows[1]
    assert whole.flops_left and part.flops_left
    share = 1 - (run.steps // 2) / run.steps / 5  # of five runs
    assert part.flops_left / whole.flops_left == pytest.approx(share)
    assert part.modelled_seconds / whole.modelled_seconds == pytest.approx(share)
    finish(run)
    assert collect(design).rows[1].modelled_seconds / whole.modelled_seconds == pytest.approx(4 / 5)


def test_measured_and_modelled_are_told_apart(design: Design, folder: Path) -> None:
    gang = gang_of(design, "fine_tuning")
    benchmark = Path("results/benchmarks/train_runs") / f"{Path(gang.manifest).stem}.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(f"s\th:m:s\n{3600.0 * len(gang.runs)}\t4:00:00\n", encoding="utf-8")
    status = collect(design)
    fine, mixed = status.rows
    assert (fine.measured_seconds, fine.modelled_seconds) == (6 * 3600.0, 0.0)
    assert mixed.measured_seconds == 0.0 and mixed.modelled_seconds > 0
    text = " ".join(render(status).split())  # as if lines were not wrapped
    assert "left on one CPU: 6.0 h measured + " in text
    assert "measured: from the finished jobs" in text and "assumed, not measured (dynamics.cost)" in text
    left = as_json(status)["left"]["cpu"]
    assert left["measured_hours"] == pytest.approx(6.0)
    assert left["modelled_hours"] == pytest.approx(mixed.modelled_seconds / 3600)
    assert left["requested_hours"] == pytest.approx(sum(row.requested_seconds for row in status.rows) / 3600)


# ------------------------------------------------------------------------------------------------------------- form


def test_as_json_has_the_same_keys_whatever_there_is(
    design: Design, folder: Path, job: subprocess.Popen[bytes]
) -> None:
    def keys(value: Any) -> Any:
        return {key: keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    empty = as_json(collect(design))
    assert list(empty) == [
        "scale", "runs", "models", "running", "failures", "stopped", "left", "assumptions", "stages", "next",
    ]  # fmt: skip
    first, second, third, _ = gang_of(design, "fine_tuning").runs
    tell(first, "running", step=1, pid=job.pid)
    tell(second, "failed", step=1, message="broken")
    tell(third, "stopped", step=1, checkpoint=1)
    full = as_json(collect(design))
    assert keys(full) == keys(empty)
    assert json.loads(json.dumps(full, allow_nan=False)) == full
    assert full["runs"] == {"total": 11, "done": 0, "running": 1, "failed": 1, "to_do": 9, "with_checkpoint": 1}
    assert set(full["running"][0]) == {"run_id", "step", "steps", "host", "pid", "slurm_job", "quiet"}
    assert set(full["failures"][0]) == {"runs", "message", "log", "log_tail", "checkpoint"}
    assert full["stopped"] == [{"run_id": third.run_id, "checkpoint": 1, "steps": third.steps}]
    assert set(full["models"][0]) >= {"scenario", "model", "runs", "done", "flops_left", "measured_seconds"}


def test_only_as_many_failures_are_shown_as_asked_for(design: Design, folder: Path) -> None:
    for run in gang_of(design, "fine_tuning").runs:
        tell(run, "failed", step=1, message=f"broken: {run.seed}")
    status = collect(design)
    assert render(status, failures=1).count("broken: ") == 1
    assert "... and 3 more (--failures 4 shows them)" in render(status, failures=1)
    assert render(status, failures=4).count("broken: ") == 4
    assert "... and 4 more" in render(status, failures=0)


def test_stages_are_counted(design: Design, folder: Path) -> None:
    for file in design.stages["tasks"][:2]:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    status = collect(design)
    assert status.stages["tasks"] == (2, len(design.tasks))
    assert set(status.stages) == set(design.stages)
    assert f"files of the other stages: tasks 2/{len(design.tasks)}, " in render(status)


def test_the_papers_plan_takes_a_moment_and_no_torch(raw_params: dict[str, Any], folder: Path, root: Path) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(raw_params | {"scale": "paper"}, sort_keys=False))
    program = (
        "import sys, time; began = time.monotonic()\n"
        "from gptfluence.cli import main\n"
        "main(['status'])\n"
        "assert 'torch' not in sys.modules, 'torch is imported'\n"
        "print(time.monotonic() - began)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(root / "workflow")}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    *text, seconds = result.stdout.splitlines()
    assert text[0] == "scale paper: 536 runs: 0 done, 0 running, 0 failed, 536 to do"
    assert any(line.startswith("left on one GPU: ") for line in text)
    assert max(map(len, text)) <= 100
    assert float(seconds) < 5  # a second on an idle machine


def test_the_command(tiny_params: dict[str, Any], folder: Path, root: Path) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump(tiny_params, sort_keys=False))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(root / "workflow")}
        command = [sys.executable, "-m", "gptfluence", "status", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert call("mine.yaml").stdout.startswith("scale tiny: 11 runs: 0 done")
    assert json.loads(call("mine.yaml", "--json").stdout)["runs"]["to_do"] == 11
    missing = call()
    assert missing.returncode == 2 and "params.yaml: cannot be read" in missing.stderr
