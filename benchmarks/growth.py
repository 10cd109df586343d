"""How the cost of collecting dynamics grows: with test examples, steps, model size and runs of a gang.

Trains runs of random models on two tasks of the made-up world (RTE for its loss, WebNLG also for its texts; random
models end no text, so each has all its tokens), each case in a process of its own with one thread. Prints one JSON
object a line: `ours` are the CPU seconds of the training, `other` those that the cost model of `gptfluence status`
predicts with params.yaml's speed of a CPU. Writes growth.md and growth.png beside this file.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import yaml

ROOT = Path(__file__).parent.parent
NANO = {"layers": 2, "width": 64, "vocabulary": 2048}
BASE: dict[str, Any] = {"shape": NANO, "tests": 16, "epochs": 1, "runs": 1}
SIZES = {
    "0.1m": NANO | {"width": 40},
    "0.2m": NANO,
    "0.8m": NANO | {"layers": 3, "width": 128},
    "3m": NANO | {"layers": 4, "width": 240},
    "Pythia-14M": {"layers": 6, "width": 128, "vocabulary": 50304},
    "Pythia-70M": {"layers": 6, "width": 512, "vocabulary": 50304},
}
STEPS_AN_EPOCH = 6
CASES: dict[str, list[tuple[float, dict[str, Any]]]] = {
    "test examples": [(2 * n, {"tests": n}) for n in (4, 8, 16, 32, 64, 128)],
    "steps": [(STEPS_AN_EPOCH * n, {"epochs": n}) for n in (1, 2, 4, 8, 16)],
    "parameters": [(0, {"shape": shape}) for shape in SIZES.values()],
    "runs": [(n, {"runs": n}) for n in (1, 2, 4, 8, 16, 32)],
}


def make_model(shape: dict[str, int], folder: Path) -> int:
    """Save a random GPT-NeoX and a tokenizer of the world's words; return its parameters."""
    import torch
    from gptfluence.dynamics.pretrain import make_config, train_tokenizer
    from gptfluence.tasks.world import make_corpus
    from transformers import GPTNeoXForCausalLM

    tokenizer = train_tokenizer(make_corpus(1, 2000), 2048)
    torch.manual_seed(1)
    model = GPTNeoXForCausalLM(make_config({"heads": 4, "max_length": 512, **shape}, shape["vocabulary"]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Train the runs of a case in the working directory."""
    from gptfluence.cost import Costs
    from gptfluence.curricula.draw import draw_curricula
    from gptfluence.design import make_design
    from gptfluence.dynamics.train import train_runs
    from gptfluence.params import load_params
    from gptfluence.tasks.prepare import prepare_task

    parameters = make_model(case["shape"], Path("model"))
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["scale"] = "growth"
    # All tokens are equally likely to a random model: as to a trained one, few are at so low a temperature.
    raw["dynamics"]["generation"]["temperature"] = 0.002
    runs = {"fit": max(case["runs"] - 2, 1), "validate": 1, "held_out": 1, "unseen": 0}
    row = {"source": "folder", "path": "model", "max_length": 512, "runs_per_job": 64, "mem_gb": 8}
    raw["dynamics"]["models"]["growth"] = row
    plan = {"models": ["growth"], "train_tasks": ["rte", "webnlg"], "test_tasks": ["rte", "webnlg"], "runs": runs}
    plan |= {"draw": 12, "batch": 4, "epochs": case["epochs"], "learning_rate": 1e-4}
    scale = {"source": "world", "pool": 16, "unseen_pool": 0, "test": case["tests"]}
    raw["scales"]["growth"] = scale | {"scenarios": {"instruction_tuning": plan}}
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    design = make_design(load_params(raw, Path("params.yaml")))
    for task, spec in design.tasks.items():
        prepare_task(spec, Path(design.task_file(task)))
    draw_curricula(design.curricula_spec(), Path("data/curricula"))
    (gang,) = design.gangs
    spec = design.gang_spec(gang)
    spec["runs"] = spec["runs"][: case["runs"]]
    modelled = Costs(design).estimate(next(iter(design.groups))).seconds
    assert modelled is not None
    began = time.process_time()
    train_runs(spec, Path("manifest.json"))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "modelled": modelled * case["runs"], "peak_mb": peak, "parameters": parameters}


def apart(case: dict[str, Any]) -> dict[str, float]:
    """Measure a case in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--measure", json.dumps(case)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw seconds, and memory, against each of the four."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(11, 4.6), layout="constrained", sharey="row", sharex="col")
    for (upper, lower), (what, rows) in zip(axes.T, found.items(), strict=True):
        x = [row["x"] for row in rows]
        upper.loglog(x, [row["seconds"] for row in rows], "o-", color="#0072B2", label="measured")
        upper.loglog(x, [row["modelled"] for row in rows], "--", color="#D55E00", label="cost model")
        lower.semilogx(x, [row["peak_mb"] for row in rows], "s-", color="#009E73")
        lower.set_xlabel(what)
        for axis in (upper, lower):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("CPU seconds")
    axes[0, 0].legend(frameon=False)
    axes[1, 0].set_ylabel("peak memory, MB")
    axes[1, 0].set_ylim(bottom=0)  # shared: not before all are drawn
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure all cases; print, tabulate and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    lines = ["| grows | value | CPU seconds | cost model | peak memory, MB |", "|---|---:|---:|---:|---:|"]
    for what, cases in CASES.items():
        for x, changes in cases:
            row = apart(copy.deepcopy(BASE) | changes)
            x = x or row["parameters"]
            found.setdefault(what, []).append(row | {"x": x})
            ratio = row["modelled"] / row["seconds"]
            printed = {"name": f"growth {what}", "value": x, "ours": round(row["seconds"], 3)}
            printed |= {"other": round(row["modelled"], 3), "other_is": "cost model", "ratio": round(ratio, 3)}
            print(json.dumps(printed | {"unit": "s", "peak_mb": round(row["peak_mb"])}), flush=True)
            lines.append(
                f"| {what} | {x:,.0f} | {row['seconds']:.2f} | {row['modelled']:.2f} | {row['peak_mb']:,.0f} |"
            )
    here = Path(__file__).parent
    (here / "growth.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(found, here / "growth.png")


if __name__ == "__main__":
    main()
