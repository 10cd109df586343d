from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from gptfluence.curricula.draw import draw_curriculum, read_curriculum, write_curriculum
from gptfluence.io import read_parquet

RUN: dict[str, Any] = {
    "run_id": "r",
    "train_tasks": ["rte", "sst2"],
    "pool": "pool",
    "draw_seed": 3,
    "order_seed": 4,
    "draw": 8,
    "first_example": 0,
    "pool_size": 20,
    "batch": 4,
    "epochs": 3,
    "steps": 12,
}


def test_every_epoch_holds_each_drawn_example_once_in_a_fresh_order() -> None:
    task, example = draw_curriculum(RUN)
    assert task.shape == example.shape == (12, 4)
    epochs = [list(zip(task[i : i + 4].ravel(), example[i : i + 4].ravel(), strict=True)) for i in (0, 4, 8)]
    assert all(len(set(epoch)) == 16 for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    assert Counter(t for t, _ in epochs[0]) == {0: 8, 1: 8}
    assert example.min() >= 0 and example.max() < 20


def test_seeds_do_what_their_names_say() -> None:
    drawn = {i for i in draw_curriculum(RUN)[1].ravel()}
    assert {i for i in draw_curriculum(RUN | {"order_seed": 9})[1].ravel()} == drawn
    assert (draw_curriculum(RUN | {"order_seed": 9})[1] != draw_curriculum(RUN)[1]).any()
    assert {i for i in draw_curriculum(RUN | {"draw_seed": 9})[1].ravel()} != drawn


def test_draw_of_a_task_does_not_depend_on_the_mixture() -> None:
    task, example = draw_curriculum(RUN)
    alone = draw_curriculum(RUN | {"train_tasks": ["sst2"], "steps": 6})[1]
    assert set(example[task == 1]) == set(alone.ravel())


def test_unseen_runs_draw_from_the_unseen_examples() -> None:
    _, example = draw_curriculum(RUN | {"pool": "unseen_pool", "first_example": 20})
    assert example.min() >= 20 and example.max() < 40


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_curriculum(RUN, *draw_curriculum(RUN), path)
    steps = read_curriculum(RUN, path)
    task, example = draw_curriculum(RUN)
    assert steps == [
        [(RUN["train_tasks"][t], e) for t, e in zip(*row, strict=True)] for row in zip(task, example, strict=True)
    ]
    assert read_parquet(path).column_names == ["run_id", "step", "slot", "task", "example"]
    assert os.listdir(tmp_path) == ["r.parquet"]
