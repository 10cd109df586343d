"""A small GPT-NeoX folder and the files of one gang of runs, as the pipeline lays them out."""

from __future__ import annotations

import dataclasses
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from gptfluence.curricula.draw import draw_curricula
from gptfluence.dynamics.pretrain import make_config, train_tokenizer
from gptfluence.identity import DYNAMICS_CODE, code_digest
from gptfluence.io import write_parquet
from gptfluence.runs import Run
from transformers import GPTNeoXForCausalLM

WORDS = ["the", "a", "river", "town", "mayor", "bakes", "sells", "paints", "old", "blue", "bread", "boats", "of", "in"]
WORDS += ["near", "and", "Köln", "große"]


def sentence(generator: random.Random, words: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(words)) + "."


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-NeoX of two layers with a tokenizer of its own, as safetensors."""
    generator = random.Random(1)
    tokenizer = train_tokenizer([sentence(generator, 12) for _ in range(200)], 400)
    torch.manual_seed(1)
    spec = {"layers": 2, "width": 32, "heads": 2, "max_length": 96}
    folder = tmp_path_factory.mktemp("model")
    GPTNeoXForCausalLM(make_config(spec, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def gang(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The spec of a gang of two runs on a loss task and a text task; the working directory holds their inputs."""
    monkeypatch.chdir(tmp_path)
    generator = random.Random(2)
    for task, words in (("yesno", 1), ("text", 6)):
        rows = []
        for part, count, first in (("pool", 12, 0), ("unseen_pool", 12, 12), ("test", 5, 0)):
            for i in range(count):
                prompt = sentence(generator, generator.randint(3, 14))
                target = sentence(generator, words)
                row = {"part": part, "example": first + i, "prompt": prompt, "target": target, "facts": []}
                rows += [row | {"format": form, "references": [target, "a second wording"]} for form in FORMS]
        write_parquet(task_file(task), pa.Table.from_pylist(rows), {"task": task})
    runs = [make_run(number) for number in (1, 2)]
    draw_curricula({"runs": runs}, Path("data/curricula"))
    return {
        "model": {"source": "folder", "path": str(model_folder), "max_length": 96, "lora": None},
        "optimizer": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.001},
        "generation": {"top_p": 0.95, "temperature": 0.2, "max_new_tokens": 12, "batch_tokens": 4096},
        "evaluation_tokens": 128,
        "precision": "fp32",
        "compile": False,
        "memory_gb": 2.0,
        "checkpoint_minutes": 10.0,
        "tasks": {task: task_file(task) for task in ("yesno", "text")},
        "metrics": {"yesno": ["loss"], "text": ["loss", "bleu", "rouge_l"]},
        "runs": runs,
        "code": code_digest(*DYNAMICS_CODE),
    }


FORMS = ("plain", "instruction")


def task_file(task: str) -> str:
    return f"data/tasks/{task}.0123456789ab.parquet"


def make_run(number: int, **changes: Any) -> dict[str, Any]:
    """The row of a run of 6 steps of 4 examples."""
    run = Run(
        run_id=f"run-{number}",
        group="group",
        gang="gang",
        scenario="instruction_tuning",
        model="tiny",
        train_tasks=("yesno", "text"),
        test_tasks=("yesno", "text"),
        pool="pool",
        split="fit",
        seed=number,
        draw_seed=number,
        order_seed=number,
        init_seed=number,
        generation_seed=number,
        draw=6,
        first_example=0,
        pool_size=12,
        batch=4,
        epochs=2,
        steps=6,
        learning_rate=1e-2,
        hash=f"{number:012x}",
        curriculum_hash="ba9876543210",
    )
    return dataclasses.replace(run, **changes).row()


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of the command line."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
