"""What is read of the release's files, and what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gptfluence.released.lines import Unread, read_batches, read_checkpoint, read_log, read_samples, read_trajectories


def trajectories(*lines: str) -> tuple[list[tuple[int, int, float]], Unread]:
    unread = Unread()
    points = read_trajectories("\n".join(lines).encode(), unread)
    return list(zip(points.tests.tolist(), points.steps.tolist(), points.values.tolist(), strict=True)), unread


def test_trajectories_hold_gaps_plateaus_and_repeats_as_they_are() -> None:
    rows, unread = trajectories(
        '{"id": 7, "loss_trajectory": [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}, {"step": 9, "loss": 1}]}',
        "",
        '{"more": 1, "id": 2, "loss_trajectory": [{"loss": 2.5, "step": 3, "x": null}, {"step": 3, "loss": 3e-1}]}\r',
        '{"id": 3, "loss_trajectory": []}',
    )
    assert rows == [(7, 1, 0.5), (7, 2, 0.5), (7, 9, 1.0), (2, 3, 2.5), (2, 3, np.float32(0.3))]
    assert unread == Unread()


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "3", '{"id": 1}', '{"id": "1", "loss_trajectory": []}', '{"id": -1, "loss_trajectory": []}',
     '{"id": true, "loss_trajectory": []}', '{"id": 99999999999, "loss_trajectory": []}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_trajectory_is_left_out_and_counted(line: str) -> None:
    rows, unread = trajectories('{"id": 0, "loss_trajectory": [{"step": 1, "loss": 2}]}', line, line)
    assert rows == [(0, 1, 2.0)]
    assert unread.count == 2 and unread.first.startswith("line 2: ")


def test_single_points_that_are_wrong_cost_no_others() -> None:
    points = (
        '[{"step": 1, "loss": NaN}, {"step": 2}, 5, {"step": "3", "loss": 1}, {"step": 4, "loss": 4}, {"step": -1}]'
    )
    rows, unread = trajectories(f'{{"id": 0, "loss_trajectory": {points}}}')
    assert [row[:2] for row in rows] == [(0, 1), (0, 2), (0, 4)]
    assert np.isnan(rows[0][2]) and np.isnan(rows[1][2]) and rows[2][2] == 4
    assert unread.count == 3


def test_checkpoints_hold_one_or_all_metrics() -> None:
    loss = read_checkpoint(b'{"id": 1, "loss": 2.5}\n{"id": 0, "loss": 3}\n', 4, unread := Unread())
    assert list(loss) == ["loss"] and unread.count == 0
    assert loss["loss"].tests.tolist() == [1, 0] and loss["loss"].values.tolist() == [2.5, 3]
    assert loss["loss"].steps.tolist() == [4, 4]
    row = {"id": 0, "loss": 1.0, "rouge1": 0.1, "rouge2": 0.2, "rougeL": 0.25, "bleu": 50.0}
    lines = "\n".join([json.dumps(row), '{"id": 1, "loss": 2, "bleu": null}', '{"loss": 1}'])
    whole = read_checkpoint(lines.encode(), 1, unread := Unread())
    assert {m: points.values.tolist() for m, points in whole.items() if m == "loss"} == {"loss": [1.0, 2.0]}
    assert whole["rouge_l"].values[0] == 0.25 and np.isnan(whole["rouge_l"].values[1])
    assert whole["bleu"].values[0] == 50 and np.isnan(whole["bleu"].values[1])
    assert unread == Unread(1, "line 3: no id")


def test_of_batches_that_are_there_twice_the_last_counts() -> None:
    lines = b'{"step": 1, "samples_id": [1, 2]}\n{"step": 1, "samples_id": [3]}\n{"step": 2, "samples_id": []}\n'
    assert read_batches(lines, unread := Unread()) == {1: [3]}
    assert unread.count == 1


LOGS = {
    "{'loss': 0.5, 'learning_rate': 5e-07, 'epoch': 0.03, 'step': 1, 'samples_id': [3, 1]}": {1: [3, 1]},
    " 1%|# | 1/96 [00:01<01:35,  1.0s/it]{'loss': 0.5, 'step': 2, 'samples_id': [4]}": {2: [4]},
    "[a]{'x': 1} 1%| [0:1]{'loss': 0.5, 'step': 2, 'samples_id': [4]}": {2: [4]},
    " 1%| | 1/96\r 2%| | 2/96\r{'loss': 0.5, 'step': 2, 'samples_id': [4]}": {2: [4]},
    "{'loss': None, 'step': 3, 'ok': True, 'samples_id': [5]}": {3: [5]},
    "{'loss': nan, 'grad_norm': inf, 'step': 3, 'samples_id': [5]}": {3: [5]},
    "{'loss': 0.1, 'note': \"it's nan\", 'step': 3, 'samples_id': [5]}": {3: [5]},
    '{"loss": NaN, "ok": true, "step": 4, "samples_id": [6]}': {4: [6]},
    "INFO {'loss': 0.5, 'step': 2, 'samples_id': [4]} written": {2: [4]},
    "the samples_id of each loss and step": {},
    "{'train_loss': 0.5, 'step': 96}": {},
}


@pytest.mark.parametrize("line", LOGS)
def test_logs_hold_batches_behind_whatever_stands_before_them(line: str) -> None:
    assert read_log(f"noise\n{line}\r\n".encode(), unread := Unread()) == LOGS[line]
    assert unread.count == 0


def test_nothing_in_a_log_is_executed() -> None:
    line = "{'loss': __import__('os').system('touch /tmp/executed'), 'step': 1, 'samples_id': [1]}"
    deep = "{'loss': " + "[" * 5000 + "]" * 5000 + ", 'step': 1, 'samples_id': [1]}"
    broken = ["{'loss': 1, 'step': 1, 'samples_id': [1", "{'loss': 1, 'step': 1.5, 'samples_id': ['a']}"]
    assert read_log("\n".join([line, deep, *broken]).encode(), unread := Unread()) == {}
    assert unread.count == 4


def test_examples_are_prompt_and_target_of_their_text() -> None:
    rows = [
        {"id": 0, "input": "Is it?\nAnswer: True.", "context": "Is it?\nAnswer:", "label": 1},
        {"id": 1, "input": "Is it?\nAnswer: True."},
        {"id": 2, "input": "other", "context": "Is it?"},
        {"id": 3, "input": " "},
        {"input": "x"},
    ]
    content = b"\xef\xbb\xbf" + "\n".join(map(json.dumps, rows)).encode()
    assert read_samples(content, unread := Unread()) == [
        (0, "Is it?\nAnswer:", "True."), (1, "Is it?\nAnswer: True.", ""), (2, "other", "")
    ]  # fmt: skip
    assert unread.count == 2
