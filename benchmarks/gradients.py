"""Gradients of single examples: ours against a loop of autograd over the examples, and against bergson 2.5.1.

Prints one JSON object a line; `ratio` is other / ours in CPU seconds of one thread. Both sides run in the same process,
in turns, the best of several is taken, and what they compute (the products of the loss gradients of 200 training and
100 test examples) must agree to 1e-4 of the largest.

hooks_{size}_{parameters}: against autograd of one example at a time; each training example's gradient is multiplied
with those of all tests as soon as it is there.
hooks_{size}_bergson: against bergson's in-memory collector, set up as its own jobs set it up (no weight gradients, no
output head), batches of the default 2048 tokens. Skipped where bergson is not installed; it needs `pip install
--no-deps bergson==2.5.1 jaxtyping wadler-lindig simple-parsing docstring-parser petname natsort ml_dtypes torchopt
optree graphviz` (with `--target` a folder on PYTHONPATH: none of it is needed by the pipeline).
hooks_memory: the peak memory of a process that forms the products of 100 tests with 200, 400 and 800 training examples;
`ratio` is that of the last to the first, and `rise_mb` what the products made the process grow by.
tracin_every_step_over_run: a run of a GPT of 0.17M parameters (30 steps of 4 examples, 80 tests measured at each),
trained again with TracIn's effect of every step on every test, against the run alone; here `ratio` is ours / other.
tracin_every_step_over_checkpoints: the same, against keeping the weights of every step in files, loading each again and
multiplying the batch's gradient with each test's, caught by hooks; `ratio` is ours / other. Each side is a process of
its own, loading left out, and both must find the same effects.

The models are GPT-NeoX with random weights; the examples of hooks_* are 48 to 80 tokens, of which the
last 8 to 16 are the target's.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from gptfluence.attribution.hooks import ExampleGradients, Parameters, gradient_products
from gptfluence.dynamics import packing
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gpts import random_gpt
from transformers import PreTrainedModel

# layers, width, heads, vocabulary
SIZES: dict[str, tuple[int, int, int, int]] = {"0.17m": (2, 64, 4, 512), "1.3m": (4, 128, 4, 2048)}
TRAIN, TEST = 200, 100
BUDGET = 4096
BERGSON_TOKENS = 2048
STACKED = 50
REPEATS = 5
CORPORA = (200, 400, 800)


def load(size: str, attention: str = packing.NAME) -> PreTrainedModel:
    """Return a model in evaluation mode."""
    return random_gpt(*SIZES[size], max_position_embeddings=128, attn_implementation=attention)


def examples(size: str, count: int, seed: int) -> list[Encoded]:
    """Return random examples."""
    random = np.random.default_rng(seed)
    lengths, targets = random.integers(48, 81, count), random.integers(8, 17, count)
    return [
        Encoded(tuple(random.integers(1, SIZES[size][3], length).tolist()), target, False)
        for length, target in zip(lengths.tolist(), targets.tolist(), strict=True)
    ]


# ------------------------------------------------------------------------------------------------------ the ways


def ours(size: str, parameters: Parameters, train: list[Encoded], test: list[Encoded]) -> Callable[[], np.ndarray]:
    """Return what forms the products by hooks."""
    gradients = ExampleGradients(load(size), parameters)
    budget = Budget.of(BUDGET, SIZES[size][3])
    return lambda: gradient_products(gradients, train, test, budget)


def loop(
    size: str, parameters: Parameters, train: list[Encoded], test: list[Encoded], stacked: int
) -> Callable[[], np.ndarray]:
    """Return what calls autograd for one example at a time, and multiplies so many training gradients at once."""
    model = load(size, "sdpa")
    names = {block.name for block in ExampleGradients(model, parameters).blocks}
    weights = [weight.requires_grad_(name in names) for name, weight in model.named_parameters()]
    weights = [weight for weight in weights if weight.requires_grad]

    def gradient(example: Encoded) -> list[torch.Tensor]:
        tokens = torch.tensor([example.tokens])
        logits = model(input_ids=tokens[:, :-1], logits_to_keep=example.target).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, tokens[0, -example.target :])
        return [part.flatten() for part in torch.autograd.grad(loss, weights)]

    def gradients(some: list[Encoded]) -> list[torch.Tensor]:
        return [torch.stack(parts) for parts in zip(*map(gradient, some), strict=True)]

    def run() -> np.ndarray:
        tests = gradients(test)
        # One parameter at a time: sums over a million numbers in fp32 would be off by 1e-4.
        return np.concatenate([
            sum(own @ other.T for own, other in zip(gradients(train[i : i + stacked]), tests, strict=True)).numpy()
            for i in range(0, len(train), stacked)
        ])  # fmt: skip

    return run


def bergson(size: str, train: list[Encoded], test: list[Encoded], folder: Path) -> Callable[[], np.ndarray]:
    """Return what has bergson collect the gradients of linear weights, then multiplies them."""
    from bergson.collector.collector import CollectorComputer
    from bergson.collector.in_memory_collector import InMemoryCollector
    from bergson.config import IndexConfig
    from bergson.data import allocate_batches
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    model = load(size, "sdpa").requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    config = IndexConfig(run_path=str(folder / "run"), loss_reduction="mean", token_batch_size=BERGSON_TOKENS)
    config.partial_run_path.mkdir(exist_ok=True)

    def collect(some: list[Encoded]) -> np.ndarray:
        tokens = [list(example.tokens) for example in some]
        labels = [[-100] * len(example.prompt) + list(example.tokens[-example.target :]) for example in some]
        data = Dataset.from_dict({"input_ids": tokens, "labels": labels})
        batches = allocate_batches([len(each) for each in tokens], BERGSON_TOKENS)
        collector = InMemoryCollector(model=model.base_model, data=data, cfg=config)
        CollectorComputer(model, data, collector=collector, batches=batches, cfg=config).run_with_collector_hooks()
        return collector.builder.grad_buffer

    return lambda: collect(train) @ collect(test).T


# ------------------------------------------------------------------------------------------- TracIn at every step


def small_job(folder: Path, steps: int, batch: int, tests: int) -> dict[str, Any]:
    """Write a GPT of 0.17M parameters and a task, go to their folder; return the spec of one run's replay."""
    import pyarrow as pa
    from gptfluence.curricula.draw import draw_curricula
    from gptfluence.dynamics.pretrain import make_config, train_tokenizer
    from gptfluence.io import write_parquet
    from gptfluence.runs import Run
    from transformers import GPTNeoXForCausalLM

    random = np.random.default_rng(1)
    words = ["".join(random.choice(list("abcdefghijklmnop"), size=int(random.integers(2, 7)))) for _ in range(800)]

    def sentence(count: int) -> str:
        return " ".join(random.choice(words, size=count))

    os.chdir(folder)
    tokenizer = train_tokenizer([sentence(20) for _ in range(500)], 1024)
    torch.manual_seed(1)
    config = make_config({"layers": 2, "width": 64, "heads": 4, "max_length": 512}, len(tokenizer))
    GPTNeoXForCausalLM(config).save_pretrained("model")
    tokenizer.save_pretrained("model")
    pool = 40
    rows = []
    for part, count in (("pool", pool), ("test", tests)):
        for i in range(count):
            target = sentence(1 if i % 2 else int(random.integers(4, 20)))
            rows.append({"part": part, "example": i, "prompt": sentence(int(random.integers(8, 60))), "target": target,
                         "format": "plain", "facts": [], "references": [target]})  # fmt: skip
    write_parquet("task.parquet", pa.Table.from_pylist(rows), {})
    run = Run(
        run_id="run", group="group", gang="gang", scenario="fine_tuning", model="nano", train_tasks=("task",),
        test_tasks=("task",), pool="pool", split="held_out", seed=1, draw_seed=1, order_seed=1, init_seed=1,
        generation_seed=1, draw=pool, first_example=0, pool_size=pool, batch=batch, epochs=steps * batch // pool,
        steps=steps, learning_rate=1e-3, hash="0", curriculum_hash="0",
    ).row()  # fmt: skip
    draw_curricula({"runs": [run]}, Path("data/curricula"))
    return {
        "model": {"source": "folder", "path": "model", "max_length": 512, "lora": None},
        "optimizer": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.001},
        "generation": {"top_p": 0.95, "temperature": 0.2, "max_new_tokens": 8, "batch_tokens": 4096},
        "evaluation_tokens": 4096, "precision": "fp32", "compile": False,
        "tasks": {"task": "task.parquet"}, "metrics": {"task": ["loss"]}, "runs": [run],
        "methods": ["tracin"], "checkpoints": 10, "code": "",
    }  # fmt: skip


def run_alone(reruns: Any, run: dict[str, Any]) -> None:
    """Train a run as `train_runs` does: all tests are measured before each update, and at the end."""
    rerun = reruns.start(run)
    for _ in range(run["steps"]):
        rerun.losses()
        rerun.update()
    rerun.losses()


def replayed(reruns: Any, run: dict[str, Any]) -> np.ndarray:
    """Return TracIn's effect of every step, the run's training included: [steps, tests]."""
    from gptfluence.attribution.replay import step_effects

    return step_effects(reruns.start(run), ["tracin"], 1)["tracin"]


def by_checkpoints(reruns: Any, run: dict[str, Any]) -> np.ndarray:
    """Return the same from stored checkpoints: train, keep the weights of every step, then load each and multiply.

    At each checkpoint the batch's gradient is multiplied with the gradient of each test example, all of which come from
    one forward and one backward pass (`attribution.hooks`).
    """
    from gptfluence.attribution.hooks import gradients_of
    from safetensors.torch import load_file, save_file

    rerun = reruns.start(run)
    for step in range(run["steps"]):
        save_file(dict(rerun.training.model.named_parameters()), f"{step}.safetensors")
        rerun.losses()
        rerun.update()
    rerun.losses()
    model, effects = rerun.follower, np.empty((run["steps"], len(reruns.inputs.test_examples)), np.float32)
    for step in range(run["steps"]):
        model.load_state_dict(load_file(f"{step}.safetensors"), strict=False)
        stream = packing.Stream.of([reruns.inputs.train_pack(rerun.curriculum[step])], reruns.device)
        model.zero_grad()
        packing.token_losses(functools.partial(packing.read, model), stream).mean().backward()
        whole = dict(model.named_parameters())
        gradients = ExampleGradients(model, "all")
        for rows, captured in gradients_of(gradients, reruns.inputs.test_examples, reruns.budget):
            with torch.no_grad():
                parts = [captured.block(b).flatten(1) @ whole[b.name].grad.flatten() for b in gradients.blocks]
            effects[step, rows] = -rerun.rate(step) * sum(parts).numpy()
    return effects


TRACIN_SIDES = {"run": run_alone, "replay": replayed, "checkpoints": by_checkpoints}


def measure_tracin(side: str) -> None:
    """Go one way to TracIn at every step of a small run, or do the run alone; print what it took and gave."""
    from gptfluence.attribution.replay import Reruns

    with tempfile.TemporaryDirectory() as name:
        spec = small_job(Path(name), steps=30, batch=4, tests=80)
        reruns, run = Reruns(spec), spec["runs"][0]
        reruns.start(run).losses()
        began = time.process_time()
        effects = TRACIN_SIDES[side](reruns, run)
        cpu = time.process_time() - began
        os.chdir("/")
    print(json.dumps({"cpu": cpu, "peak_mb": peak_mb(), "effects": None if effects is None else effects.tolist()}))


def tracin_every_step() -> None:
    """Print what TracIn at every step costs over the run alone, and over the way of stored checkpoints."""
    found = {}
    for side in TRACIN_SIDES:
        done = subprocess.run([sys.executable, __file__, "--tracin", side], capture_output=True, text=True, check=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = (np.array(found[side].pop("effects")) for side in ("replay", "checkpoints"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).mean())
    for other, what in (("run", "the run without TracIn"), ("checkpoints", "weights of every step stored and loaded")):
        row = {"name": f"tracin_every_step_over_{other}", "ours": found["replay"]["cpu"], "other": found[other]["cpu"]}
        row |= {"ratio": row["ours"] / row["other"], "unit": "CPU s", "other_is": what}
        row |= {"peak_mb": found["replay"]["peak_mb"], "other_peak_mb": found[other]["peak_mb"]}
        report(row)


# ----------------------------------------------------------------------------------------------------- measuring


def compare(name: str, one: Callable[[], np.ndarray], other: Callable[[], np.ndarray], **more: Any) -> None:
    """Run both in turns, check that they agree, and print a line."""
    seconds: list[list[float]] = [[], []]
    for repeat in range(REPEATS + 1):
        found = []
        for times, function in zip(seconds, (one, other), strict=True):
            began = time.process_time()
            found.append(function())
            if repeat:  # the first one warms up
                times.append(time.process_time() - began)
        largest = np.abs(found[1]).max()
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-4 * largest)
    here, there = (min(times) for times in seconds)
    difference = float(np.abs(found[0] - found[1]).max() / largest)
    report({"name": name, "ours": here, "other": there, "ratio": there / here, "unit": "CPU s"} | more
           | {"largest_difference": difference})  # fmt: skip


def peak_mb() -> float:
    """Return this process's peak memory, in MB. `getrusage` would begin with that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def report(row: dict[str, Any]) -> None:
    """Print a line, four figures of each number."""
    print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}), flush=True)


def hooks() -> None:
    """Compare the products of gradients at each size."""
    for size in SIZES:
        train, test = examples(size, TRAIN, 1), examples(size, TEST, 2)
        for parameters in ("linear", "all"):
            for name, stacked in (("", 1), ("_stacked", STACKED)):
                compare(f"hooks_{size}_{parameters}{name}", ours(size, parameters, train, test),
                        loop(size, parameters, train, test, stacked),
                        other_is=f"autograd of one example at a time, {stacked} multiplied at once")  # fmt: skip
        name = f"hooks_{size}_bergson"
        if importlib.util.find_spec("bergson") is None:
            report({"name": name, "skipped": "bergson is not installed"})
            continue
        import logging

        logging.disable(logging.INFO)
        with tempfile.TemporaryDirectory() as folder:
            compare(name, ours(size, "linear", train, test), bergson(size, train, test, Path(folder)),
                    other_is="bergson 2.5.1, in memory")  # fmt: skip


def measure_memory(train: int) -> None:
    """Form the products with so many training examples in this process; print the peaks of its memory, in MB."""
    (*_, size) = SIZES
    function = ours(size, "all", examples(size, train, 1), examples(size, TEST, 2))
    before = peak_mb()
    function()
    print(json.dumps([before, peak_mb()]))


def hooks_memory() -> None:
    """Measure the memory over the sizes of the corpus, each in a process of its own."""
    peaks = []
    for train in CORPORA:
        command = [sys.executable, __file__, "--memory", str(train)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    report(
        {
            "name": "hooks_memory",
            "ours": peaks[0][1],
            "other": peaks[-1][1],
            "ratio": peaks[-1][1] / peaks[0][1],
            "unit": "MB",
            "peak_mb": {train: round(after) for train, (_, after) in zip(CORPORA, peaks, strict=True)},
            "rise_mb": {train: round(after - b) for train, (b, after) in zip(CORPORA, peaks, strict=True)},
        }
    )


def main() -> None:
    """Measure all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tracin", choices=TRACIN_SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="call the functions that have this in their name")
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory)
        return
    if options.tracin:
        measure_tracin(options.tracin)
        return
    for function in (hooks, hooks_memory, tracin_every_step):
        if options.only in function.__name__:
            function()


if __name__ == "__main__":
    main()
