"""What-ifs a second, at 200 training x 200 test examples x 300 steps, on one core, against simulating each anew.

One JSON object a line: name, ours, other, ratio, unit. Other: `Simulator.simulate`, called for each, on rectangular
batches; what is left out is replaced by its neighbour there, as it knows no smaller batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT / "workflow"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from gptfluence.simulators.base import Attribution, Curricula, Dynamics, Features, Kernels  # noqa: E402
from gptfluence.simulators.data import GroupData  # noqa: E402
from gptfluence.simulators.files import save_simulator  # noqa: E402
from gptfluence.simulators.fit import describe_runs  # noqa: E402
from gptfluence.simulators.registry import make_method  # noqa: E402
from gptfluence.whatif.ask import WhatIf, load  # noqa: E402

TRAIN, TESTS, STEPS, BATCH, RUNS, WIDTH = 200, 200, 300, 8, 12, 64
STRENGTHS = [0.01, 0.1, 1.0]
RIDGE = {"aggregation": "mean", "shrink_to": "persistence", "strengths": STRENGTHS}
METHODS = {
    "gradient_response": {"kind": "gradient_response", "kernels": ["adamw", "sgd"], "momenta": [0.0, 0.9, 0.97],
                          "decays": [1.0, 0.98, 0.9, 0.5], "strengths": STRENGTHS},
    "gptfluence": {"kind": "gptfluence", "head": "bilinear", "order": 1, "start": "given", **RIDGE},
    "simfluence": {"kind": "simfluence", "variant": "linear", **RIDGE},
}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            path = Path(folder) / f"{method}.safetensors"
            make(method, path)
            measure(method, load(path))
        starts(Path(folder) / "gradient_response.safetensors")


def make(method: str, path: Path) -> None:
    """Fit a method on made-up runs of the benchmark's size."""
    rng = np.random.default_rng(1)
    features = Features(rng.normal(size=(TRAIN, WIDTH)), rng.normal(size=(TESTS, WIDTH)))
    kernel = (features.train @ features.test.T / WIDTH).astype(np.float32)
    kernels = {"adamw": np.stack([kernel] * 4), "sgd": np.stack([kernel * rng.uniform(0.5, 1.5, kernel.shape)] * 4)}
    tokens = rng.integers(2, 30, TRAIN)
    checkpoints = np.arange(4) * STEPS // 4
    kernels = {name: values.astype(np.float32) for name, values in kernels.items()}
    known = Kernels(checkpoints, tokens, kernels)
    features = Features(features.train, features.test, Attribution({}, tokens), known)
    examples = np.array(
        [np.concatenate([rng.permutation(TRAIN) for _ in range(STEPS * BATCH // TRAIN)]) for _ in range(RUNS)]
    )
    curricula = Curricula(examples.reshape(RUNS, STEPS, BATCH))
    moves = np.array([kernel[run].mean(axis=1) for run in curricula.examples])
    values = 3 - 0.004 * np.cumsum(1 + moves, axis=1) + 0.01 * rng.normal(size=(RUNS, STEPS, TESTS))
    values = np.concatenate([np.full((RUNS, 1, TESTS), 3.0), values], axis=1)
    data = GroupData(tuple(map(str, range(RUNS))), Dynamics(values, np.arange(RUNS) >= RUNS - 2), curricula, features,
                     ("made",), (TESTS,))  # fmt: skip
    simulator = make_method(method, METHODS[method])
    simulator.fit(data.dynamics, data.curricula, features)
    save_simulator(simulator, path, {
        "group": "made", "metric": "loss", "method": method, "settings": METHODS[method], "format": "plain",
        "train_tasks": ["made"], "train_size": TRAIN, "test_tasks": ["made"], "test_sizes": {"made": TESTS},
        "encoder": None, "fitted_on": describe_runs(data, simulator.start),
    })  # fmt: skip


def measure(method: str, fitted: WhatIf) -> None:
    """Say how many what-ifs a second are answered, each with all steps of all tests."""
    plan = fitted.random(1)
    began = time.process_time()
    fitted.influence(plan)
    say(
        f"{method}: first influence of {TRAIN} examples, with what is computed once",
        time.process_time() - began,
        None,
        "s",
    )
    ours = TRAIN / best(lambda: fitted.influence(plan))
    rows = [fitted.train.numbers(batch) for batch in plan.batches]
    examples, few = np.stack(rows), 20
    first = np.array(fitted.facts["fitted_on"]["first_values"])[None]
    rates = np.array(fitted.rates)[None]

    def other() -> None:
        for number in range(few):
            changed = np.where(examples == number, (number + 1) % TRAIN, examples)
            fitted.simulator.simulate(Curricula(changed[None], rates), first)

    say(f"{method}: examples left out", ours, few / best(other), "what-ifs/s")
    changed = [plan.swap(f"made:{i}", f"made:{(i + 7) % TRAIN}") for i in range(TRAIN)]
    swapped = len(changed) / best(lambda: fitted.variations(plan, changed))
    say(f"{method}: pairs swapped, two examples in all epochs", swapped, few / best(other), "what-ifs/s")


def starts(path: Path) -> None:
    """Measure the command's first answer, and imports."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    for name, bar, command in (
        ("first answer of the command, from its start", 3.0,
         [sys.executable, "-m", "gptfluence", "simulate", str(path), "random:1", "--top", "1"]),
        ("import gptfluence and its loader", 1.5, [sys.executable, "-c", "import gptfluence; gptfluence.load"]),
    ):  # fmt: skip

        def call(command: list[str] = command) -> None:
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

        wall = min(timed(call, time.perf_counter) for _ in range(3))
        say(f"{name} (other: the bar)", wall, bar, "s")


def best(call: Callable[[], object], repeats: int = 3) -> float:
    """Return the least CPU seconds of some calls."""
    return min(timed(call, time.process_time) for _ in range(repeats))


def timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return clock() - began


def say(name: str, ours: float, other: float | None, unit: str) -> None:
    ratio = None if other is None else round(ours / other, 2)
    row = {"name": name, "ours": round(ours, 3), "other": other and round(other, 3), "ratio": ratio, "unit": unit}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
