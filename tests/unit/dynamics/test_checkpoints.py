from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gptfluence.dynamics import checkpoints
from gptfluence.dynamics.checkpoints import (
    Interruptions,
    Scratch,
    Training,
    Unusable,
    clear_scratch,
    load_checkpoint,
    save_checkpoint,
    scratch_files,
)
from gptfluence.dynamics.trainer import make_optimizer
from gptfluence.errors import UserError

STEPS, SIZE = 8, 3
ORIGIN = {"run_id": "run-1", "hash": "a" * 12, "code": "c" * 12, "device": "cpu", "versions": {"torch": "2"}}
RUN = {"run_id": "run-1", "hash": "a" * 12, "steps": STEPS, "shard": "data/dynamics/run-1.aaaaaaaaaaaa.parquet"}


def fresh(seed: int = 1) -> Training:
    """A run with dropout and a frozen layer, before its first update."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    model[0].bias.requires_grad_(False)
    settings = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.1}
    optimizer, schedule = make_optimizer(model, 0.1, STEPS, settings)
    losses = np.full((STEPS + 1, SIZE), -1, np.float32)
    return Training(model, optimizer, schedule, losses, np.full((2, STEPS + 1, SIZE), np.nan, np.float32))


def train(training: Training, until: int, scratch: Scratch | None = None) -> None:
    """Do the updates before step `until`, as `train_gang` does."""
    while training.step < until:
        training.losses[training.step] = training.step
        training.texts[0, training.step] = training.step
        training.optimizer.zero_grad()
        loss = training.model(torch.ones(3, 5) * (training.step + 1)).square().sum()
        loss.backward()
        training.optimizer.step()
        training.schedule.step()
        training.step += 1
        if scratch:
            scratch.between_steps(lambda: None)


def everything(training: Training) -> list[bytes]:
    """All that a run's further course depends on."""
    parts: list[Any] = [*training.model.state_dict().values(), torch.get_rng_state()]
    for _, state in sorted(training.optimizer.state_dict()["state"].items()):
        parts += [state[key] for key in sorted(state)]
    rates = [group["lr"] for group in training.optimizer.param_groups]
    schedule = json.dumps([training.step, rates, training.schedule.state_dict()]).encode()
    arrays = [training.losses[: training.step].tobytes(), training.texts[:, : training.step].tobytes()]
    return [part.numpy().tobytes() for part in parts] + [schedule, *arrays]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved() -> tuple[Training, bytes]:
    """Train three steps and save them to the file c; return the training and the file's content."""
    training = fresh()
    train(training, 3)
    save_checkpoint(Path("c"), training, ORIGIN)
    return training, Path("c").read_bytes()


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


# --------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_goes_on_exactly_where_it_was(step: int) -> None:
    whole = fresh()
    train(whole, step)
    save_checkpoint(Path("c"), whole, ORIGIN)
    before = everything(whole)
    train(whole, STEPS)

    again = fresh(seed=2)
    again.model.load_state_dict(fresh().model.state_dict())  # what is frozen comes from the model, not the checkpoint
    load_checkpoint(Path("c"), again, ORIGIN)
    assert everything(again) == before
    train(again, STEPS)
    assert everything(again) == everything(whole)


def test_holds_what_is_trained_and_nothing_else() -> None:
    from safetensors import safe_open

    training = fresh()
    train(training, 3)
    save_checkpoint(Path("c"), training, ORIGIN)
    with safe_open("c", framework="np") as file:
        names = set(file.keys())
    trained = ["0.weight", "2.weight", "2.bias"]
    kinds = ("parameters", "optimizer/step", "optimizer/exp_avg", "optimizer/exp_avg_sq")
    assert names == {f"{kind}/{name}" for kind in kinds for name in trained} | {"losses", "texts", "random/cpu"}


def test_every_cut_is_found_and_changes_nothing() -> None:
    _, content = saved()
    other = fresh()
    before = everything(other)
    for length in range(0, len(content), 61):
        Path("c").write_bytes(content[:length])
        with pytest.raises(Unusable, match="damaged"):
            load_checkpoint(Path("c"), other, ORIGIN)
    assert everything(other) == before


def test_every_flipped_bit_is_found_and_changes_nothing() -> None:
    training, content = saved()
    other = fresh()
    before = everything(other)
    harmless = 0
    for position in range(0, len(content), 7):
        broken = bytearray(content)
        broken[position] ^= 1 << (position % 8)
        Path("c").write_bytes(broken)
        try:
            load_checkpoint(Path("c"), other, ORIGIN)
        except Unusable:
            continue
        # Only the blanks that fill the header up may differ unseen: what was loaded is right.
        assert everything(other) == everything(training)
        harmless += 1
        other = fresh()
        assert everything(other) == before
    assert everything(other) == before
    assert harmless < 3


@pytest.mark.parametrize(
    "change", [{"hash": "b" * 12}, {"code": "b" * 12}, {"device": "cuda"}, {"versions": {"torch": "1"}}]
)
def test_foreign_checkpoint_is_named(change: dict[str, Any]) -> None:
    training = fresh()
    train(training, 3)
    save_checkpoint(Path("c"), training, ORIGIN | change)
    with pytest.raises(Unusable, match=f"another {next(iter(change))}$"):
        load_checkpoint(Path("c"), fresh(), ORIGIN)


def test_checkpoint_of_another_model_is_refused() -> None:
    training = fresh()
    train(training, 3)
    save_checkpoint(Path("c"), training, ORIGIN)
    other = fresh()
    other.model[2] = torch.nn.Linear(4, 3)
    with pytest.raises(Unusable, match="not this run's"):
        load_checkpoint(Path("c"), other, ORIGIN)
    longer = fresh()
    longer.losses = np.zeros((STEPS + 1, SIZE + 1), np.float32)
    with pytest.raises(Unusable, match="not this run's"):
        load_checkpoint(Path("c"), longer, ORIGIN)


def test_checkpoint_of_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    training = fresh()
    train(training, 3)
    save_checkpoint(Path("c"), training, ORIGIN)
    monkeypatch.setattr(checkpoints, "_FORMAT", checkpoints._FORMAT + 1)
    with pytest.raises(Unusable, match="another version"):
        load_checkpoint(Path("c"), fresh(), ORIGIN)


def test_other_safetensors_file_is_refused() -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, "c")
    with pytest.raises(Unusable, match="damaged"):
        load_checkpoint(Path("c"), fresh(), ORIGIN)


def test_no_checkpoint_is_no_damage() -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(Path("c"), fresh(), ORIGIN)


# ------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize(
    ("number", "exception"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["term", "int"]
)
class TestInterruptions:
    def test_comes_through_at_once(self, handlers: None, number: int, exception: type[BaseException]) -> None:
        reached = False
        with pytest.raises(exception), Interruptions():
            kill(number)
            reached = True
        assert not reached

    def test_waits_for_the_end_of_a_held_block(
        self, handlers: None, number: int, exception: type[BaseException]
    ) -> None:
        done = []
        with pytest.raises(exception), Interruptions() as interruptions:
            with interruptions.held():
                kill(number)
                kill(signal.SIGTERM)
                kill(signal.SIGINT)
                done.append("held")
            done.append("after")
        assert done == ["held"]

    def test_second_signal_does_not_break_the_end(
        self, handlers: None, number: int, exception: type[BaseException]
    ) -> None:
        done = []
        with pytest.raises(exception), Interruptions():
            try:
                kill(number)
            finally:
                kill(signal.SIGTERM)
                kill(signal.SIGINT)
                done.append("cleaned up")
        assert done == ["cleaned up"]

    def test_swallowed_exception_comes_again(self, handlers: None, number: int, exception: type[BaseException]) -> None:
        with pytest.raises(exception), Interruptions() as interruptions:
            with contextlib.suppress(BaseException):
                kill(number)
            interruptions.check()
            pytest.fail("the signal is lost")

    def test_error_in_a_held_block_comes_first_then_the_signal(
        self, handlers: None, number: int, exception: type[BaseException]
    ) -> None:
        with pytest.raises(exception), Interruptions() as interruptions:
            with pytest.raises(ValueError, match="broken"), interruptions.held():
                kill(number)
                raise ValueError("broken")
            interruptions.check()
            pytest.fail("the signal is lost")


def test_handlers_are_put_back(handlers: None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruptions():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_ignored_signals_stay_ignored(handlers: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruptions() as interruptions:
        kill(signal.SIGINT)
        interruptions.check()


def test_outside_of_the_main_thread_nothing_is_done() -> None:
    errors = []

    def work() -> None:
        try:
            with Interruptions() as interruptions, interruptions.held():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


# ------------------------------------------------------------------------------------------------------- scratch


def make_scratch(minutes: float = 10.0, run: dict[str, Any] = RUN) -> Scratch:
    origin = {key: value for key, value in ORIGIN.items() if key not in ("run_id", "hash")}
    return Scratch(run, origin, minutes, Interruptions())


CHECKPOINT, PROGRESS = scratch_files(RUN)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass; it stands still otherwise."""
    now = [1000.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def saved_step() -> int | None:
    """The step of the checkpoint on disk."""
    training = fresh()
    try:
        load_checkpoint(CHECKPOINT, training, ORIGIN)
    except FileNotFoundError:
        return None
    return training.step


def test_checkpoints_come_at_their_cadence(clock: Callable[[float], None]) -> None:
    training, scratch = fresh(), make_scratch(minutes=1.5)
    scratch.start(training)
    found = []
    for step in range(1, STEPS + 1):
        clock(40)
        train(training, step, scratch)
        found.append(saved_step())
    assert found == [None, None, 3, 3, 3, 6, 6, 6]


def test_short_run_writes_no_checkpoint() -> None:
    training, scratch = fresh(), make_scratch()
    scratch.start(training)
    train(training, STEPS, scratch)
    assert os.listdir("data/scratch") == [PROGRESS.name]
    with scratch.finishing():
        pass
    assert os.listdir("data/scratch") == []


def test_progress_says_what_is_under_way(clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    training, scratch = fresh(), make_scratch()
    scratch.start(training)
    first = json.loads(PROGRESS.read_text())
    assert first.items() >= {"run_id": "run-1", "hash": "a" * 12, "state": "running", "step": 0, "steps": STEPS}.items()
    assert (first["pid"], first["slurm_job"], first["message"]) == (os.getpid(), "77", None)
    assert first["started"] <= first["updated"]
    clock(1)
    train(training, 2, scratch)
    assert json.loads(PROGRESS.read_text()) == first  # cheap: not at every step
    clock(5)
    train(training, 3, scratch)
    later = json.loads(PROGRESS.read_text())
    assert later["step"] == 3 and later["updated"] > first["updated"] and later["started"] == first["started"]
    scratch.fail("the disk\nis full")
    assert json.loads(PROGRESS.read_text()).items() >= {"state": "failed", "message": "the disk\nis full"}.items()


def test_run_that_fails_before_it_starts_says_so() -> None:
    make_scratch().fail("no curriculum")
    found = json.loads(PROGRESS.read_text())
    assert (found["state"], found["step"], found["message"]) == ("failed", 0, "no curriculum")


def test_stopped_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    training, scratch = fresh(), make_scratch()
    scratch.start(training)
    train(training, 5, scratch)
    scratch.stop()
    found = json.loads(PROGRESS.read_text())
    assert (found["state"], found["step"]) == ("stopped", 5) and "goes on from step 5" in found["message"]
    again = fresh()
    with caplog.at_level(logging.INFO):
        make_scratch().start(again)
    assert f"run run-1: goes on from step 5 of {STEPS}" in caplog.text
    assert everything(again) == everything(training)
    assert json.loads(PROGRESS.read_text()).items() >= {"state": "running", "step": 5, "resumed": 5}.items()


def test_run_stopped_at_once_leaves_no_checkpoint() -> None:
    scratch = make_scratch()
    scratch.start(fresh())
    scratch.stop()
    assert not CHECKPOINT.exists()
    assert "starts anew" in json.loads(PROGRESS.read_text())["message"]


@pytest.mark.parametrize("minutes", [1e-9, 10.0], ids=["saved before", "never saved"])
def test_half_an_update_is_never_kept(minutes: float) -> None:
    training, scratch = fresh(), make_scratch(minutes)
    scratch.start(training)
    train(training, 2, scratch)
    train(training, 3)
    before = saved_step()
    training.whole = False
    training.model[0].weight.data.zero_()
    scratch.stop()
    assert saved_step() == before == (2 if minutes < 1 else None)
    told = json.loads(PROGRESS.read_text())
    assert (told["state"], told["step"]) == ("stopped", 3)
    assert told["message"].endswith("goes on from step 2" if before else "starts anew")


def test_open_scores_are_settled_before_a_checkpoint_and_only_then(clock: Callable[[float], None]) -> None:
    training, scratch = fresh(), make_scratch(minutes=1.5)
    scratch.start(training)
    settled = []

    def settle() -> None:
        settled.append((training.step, saved_step()))
        training.texts[1, : training.step] = 100 + training.step

    for step in range(1, STEPS + 1):
        clock(40)
        train(training, step)
        scratch.between_steps(settle)
    assert settled == [(3, None), (6, 3)]
    again = fresh()
    load_checkpoint(CHECKPOINT, again, ORIGIN)
    assert (again.texts[1, :6] == 106).all() and np.isnan(again.texts[1, 6:]).all()
    scratch.stop()  # whoever stops a run has settled before
    assert len(settled) == 2 and saved_step() == STEPS


def test_nothing_is_kept_of_scores_that_cannot_be_settled() -> None:
    training, scratch = fresh(), make_scratch(minutes=1e-9)
    scratch.start(training)
    train(training, 1)

    def settle() -> None:
        raise RuntimeError("the process has ended")

    with pytest.raises(RuntimeError, match="the process has ended"):
        scratch.between_steps(settle)
    assert saved_step() is None


def test_damaged_checkpoint_costs_only_time(caplog: pytest.LogCaptureFixture) -> None:
    training, scratch = fresh(), make_scratch()
    scratch.start(training)
    train(training, 5, scratch)
    scratch.stop()
    CHECKPOINT.write_bytes(CHECKPOINT.read_bytes()[:-1])
    again = fresh()
    before = everything(again)
    make_scratch().start(again)
    assert everything(again) == before
    assert f"{CHECKPOINT}: damaged" in caplog.text and "run run-1 starts anew" in caplog.text


def test_signals_do_not_break_the_writing(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stops the run; what comes while its checkpoint is written changes nothing."""
    write = checkpoints.save_file

    def write_under_fire(*arguments: Any) -> None:
        kill(signal.SIGTERM)
        write(*arguments)
        kill(signal.SIGINT)

    monkeypatch.setattr(checkpoints, "save_file", write_under_fire)
    training = fresh()
    with pytest.raises(SystemExit), Interruptions() as interruptions:
        scratch = Scratch(RUN, {k: v for k, v in ORIGIN.items() if k not in ("run_id", "hash")}, 10.0, interruptions)
        scratch.start(training)
        try:
            train(training, 4, scratch)
            kill(signal.SIGTERM)
        except SystemExit:
            scratch.stop()
            raise
    assert saved_step() == 4
    assert sorted(os.listdir("data/scratch")) == sorted([CHECKPOINT.name, PROGRESS.name])


def test_signal_while_a_due_checkpoint_is_written_waits(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoints.save_file
    monkeypatch.setattr(checkpoints, "save_file", lambda *a: (kill(signal.SIGTERM), write(*a)))
    training = fresh()
    with pytest.raises(SystemExit), Interruptions() as interruptions:
        scratch = Scratch(RUN, {k: v for k, v in ORIGIN.items() if k not in ("run_id", "hash")}, 1e-9, interruptions)
        scratch.start(training)
        train(training, 1, scratch)
        pytest.fail("the signal is lost")
    assert saved_step() == 1


def test_signal_while_scores_are_settled_waits_for_the_checkpoint(handlers: None) -> None:
    training = fresh()
    with pytest.raises(SystemExit), Interruptions() as interruptions:
        scratch = Scratch(RUN, {k: v for k, v in ORIGIN.items() if k not in ("run_id", "hash")}, 1e-9, interruptions)
        scratch.start(training)
        train(training, 1)
        scratch.between_steps(lambda: kill(signal.SIGTERM))
        pytest.fail("the signal is lost")
    assert saved_step() == 1


def test_what_killed_processes_left_is_removed_and_nothing_else() -> None:
    other = CHECKPOINT.with_name(f".run-10.{'a' * 12}.safetensors.x.part")
    Path("data/dynamics").mkdir(parents=True)
    CHECKPOINT.parent.mkdir()
    left = [path.with_name(f".{path.name}.x1.part") for path in (CHECKPOINT, PROGRESS, Path(RUN["shard"]))]
    for path in (other, *left):
        path.touch()
    make_scratch().start(fresh())
    assert not left[0].exists() and not left[1].exists() and left[2].exists()  # a shard may be being written now
    clear_scratch(RUN)
    assert not left[2].exists() and other.exists()
    clear_scratch(RUN)


def test_scratch_that_cannot_be_written_is_said_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Path("data").mkdir()
    Path("data/scratch").touch()  # a file where the folder should be
    training, scratch = fresh(), make_scratch(minutes=1e-9)
    scratch.start(training)
    train(training, STEPS, scratch)
    assert training.step == STEPS
    assert caplog.text.count("cannot be written") == 1


def test_shard_of_a_faster_process_ends_the_checkpoints() -> None:
    training, scratch = fresh(), make_scratch(minutes=1e-9)
    scratch.start(training)
    train(training, 2, scratch)
    assert saved_step() == 2
    Path(RUN["shard"]).parent.mkdir(parents=True)
    Path(RUN["shard"]).write_text("whole")
    clear_scratch(RUN)
    train(training, STEPS, scratch)
    scratch.stop()
    assert not CHECKPOINT.exists()
    # What it was writing when the other cleared up is missed by nobody.
    with scratch.finishing():
        raise UserError("cannot be written")
    assert os.listdir("data/scratch") == []


def test_failure_to_write_the_shard_is_told() -> None:
    training, scratch = fresh(), make_scratch()
    scratch.start(training)
    train(training, 3, scratch)
    scratch.stop()
    with pytest.raises(UserError, match="cannot be written"), scratch.finishing():
        raise UserError("cannot be written")
    assert CHECKPOINT.exists()


def test_dropout_decides_what_a_run_becomes() -> None:
    """The tests above would see a generator that goes on from elsewhere."""
    first = fresh()
    train(first, 3)
    course = everything(first)
    second = fresh()
    torch.manual_seed(9)
    train(second, 3)
    assert everything(second)[0] != course[0]
