"""Simulators at the paper's sizes: ours against a re-creation of the published training loop and roll-out.

Prints one JSON object a line; both sides of a `ratio` are run in the same call, on one thread.

fit_fine_tuning: CPU seconds until GPTfluence is fitted (25 runs of 96 steps of 4 of 200 examples, 200 tests, 384
features, 2 runs to choose among seven strengths), and those of the published loop until its roll-outs on the
validation runs are as good. The loop ends when they are, or after `--times` (500) times as many seconds: then
`reached` is false and the ratio is a lower bound. `ours_mse`, `other_mse`: the least all-steps MSE on the validation
runs; `mean_curve_mse` and `persistence_mse`: of the baselines that know nothing of the batches.
fit_instruction_tuning: the same of 25 runs of 288 steps of 8 of 1,200 examples, 1,055 tests. Here `other` is not run
to its end: the time of a step of the loop, times its steps (50 epochs).
fit_*_growth_*: seconds of our fit (ours), and where there are half as many runs, steps, tests or features (other);
`ratio` is ours / other.
fit_gradient_response_*: CPU seconds and peak memory of ours, against the bilinear fit; `ratio` is other / ours.
simulate_*: seconds of the roll-outs of 5 runs with the same networks, all at once, against one trajectory and one
step at a time. Of 5,275 trajectories of instruction tuning 100 are simulated that way, and the time is scaled up.
Both sides must agree to 1e-4.
simulate_scan_bandwidth: seconds of the scan over steps (ours) and of adding two arrays of the same size into a third
(other), which reads and writes as many bytes; `ratio` is the share of the memory's bandwidth that the scan reaches.

The dynamics are made up: near-linear, driven by products of the features and the falling learning rate, with noise.
The published loop is kinder than the code: features are encoded once and without dropout, items are rows of arrays
and not Python objects, and its validation roll-outs are all at once and not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Kernels, Simulator, linear_decay
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.mlp import Mlp
from gptfluence.simulators.rollout import all_steps_mse, roll_out

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
TRAINING: dict[str, Any] = {
    "learning_rates": [1e-3],
    "weight_decay": 0.0,
    "batch": None,
    "warmup": 0,
    "epochs": 1,
    "patience": 1,
    "seed": 42,
}
VALIDATE, HELD_OUT = 2, 5
BATCH, WARM_UP, WEIGHT_DECAY = 128, 200, 1e-5  # of the published loop


class Size(NamedTuple):
    """How much there is; the published loop's learning rate and epochs at this size."""

    runs: int
    steps: int
    batch: int
    train: int
    tests: int
    features: int
    learning_rate: float
    epochs: int


SIZES = {
    "fine_tuning": Size(25, 96, 4, 200, 200, 384, 1e-4, 300),
    "instruction_tuning": Size(25, 288, 8, 1200, 1055, 384, 1e-5, 50),
}


class Data(NamedTuple):
    """What a fit reads, and the curricula and first values of runs to simulate."""

    dynamics: Dynamics
    curricula: Curricula
    features: Features
    new: Curricula
    first_values: Array


def made(size: Size) -> Data:
    """Draw features, curricula and near-linear dynamics."""
    draw = np.random.default_rng(1)
    spectrum = np.arange(1, size.features + 1) ** -0.7

    def texts(count: int) -> Array:
        rows = draw.normal(size=(count, size.features)) * spectrum + 0.5 * spectrum
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    train, test = texts(size.train), texts(size.tests)
    tables = [train @ draw.normal(size=(size.features, size.features)) @ test.T for _ in range(2)]
    alpha, beta = (table / table.std() for table in tables)
    runs = size.runs + VALIDATE + HELD_OUT
    drawn, epochs = 0.64, 3
    count = int(drawn * size.train) // size.batch * size.batch
    rows = [draw.permutation(size.train)[:count] for _ in range(runs)]
    examples = np.stack([np.concatenate([draw.permutation(pool) for _ in range(epochs)]) for pool in rows])
    examples = examples[:, : size.steps * size.batch].reshape(runs, size.steps, size.batch)
    values = np.empty((runs, size.steps + 1, size.tests))
    values[:, 0] = draw.normal(3.0, 0.7, size=size.tests)
    for step, rate in enumerate(linear_decay(1.0, size.steps)):
        a, b = (table[examples[:, step]].mean(axis=1) for table in (alpha, beta))
        noise = draw.normal(scale=0.002, size=a.shape)
        values[:, step + 1] = values[:, step] * (1 + 0.002 * rate * a) + rate * 0.02 * (b - 0.3) + noise
    old, new = np.split(np.arange(runs), [size.runs + VALIDATE])
    kernel = np.stack([beta.astype(np.float32)] * 10)
    steps = np.linspace(0, size.steps, 10, endpoint=False).astype(int)
    kernels = Kernels(steps, np.full(size.train, 10), {"sgd": kernel, "adamw": kernel * draw.random(kernel.shape)})
    return Data(
        Dynamics(values[old], old >= size.runs),
        Curricula(examples[old]),
        Features(train, test, kernels=kernels),
        Curricula(examples[new]),
        values[new][:, :1],
    )


def bilinear() -> Simulator:
    """Return GPTfluence as the pipeline fits it."""
    return Bilinear(1, "given", "mean", "persistence", STRENGTHS)


def response() -> Simulator:
    """Return the gradient response as the pipeline fits it."""
    strengths = tuple(10.0**exponent for exponent in range(-5, 3))
    return GradientResponse(("sgd", "adamw"), (0.0, 0.9), (1.0, 0.95, 0.9, 0.8, 0.6, 0.3), strengths)


def fitted(size: Size, simulator: Simulator) -> dict[str, float]:
    """Fit in this process and say what it took: CPU seconds, peak memory in MB, validation MSE."""
    data = made(size)
    began = time.process_time()
    simulator.fit(data.dynamics, data.curricula, data.features)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    runs = data.curricula.of(data.dynamics.validate)
    measured = data.dynamics.values[data.dynamics.validate]
    return {
        "seconds": seconds,
        "mb": peak,
        "mse": all_steps_mse(simulator.simulate(runs, measured[:, :1]), measured, 1),
    }


def alone(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """Call in a process of its own, whose peak memory is the call's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Published(torch.nn.Module):
    """The published code's simulator: networks are run on every occurrence of an example, one step is predicted."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        width = features.train.shape[1]
        self.train_rows = torch.from_numpy(features.train).float()
        self.test_rows = torch.from_numpy(features.test).float()
        torch.manual_seed(42)
        self.a, self.b = (
            torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, width))
            for _ in range(2)
        )

    def forward(self, value: torch.Tensor, examples: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
        """Predict the next values of items, [items], from the last ones, the batches [items, batch] and the tests."""
        h, g = self.train_rows[examples], self.test_rows[test][:, None]
        alpha, beta = ((net(h) * net(g)).sum(-1).sum(-1) for net in (self.a, self.b))
        return alpha * value + beta

    @torch.no_grad()
    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out all trajectories at once."""
        tables = [(net(self.train_rows) @ net(self.test_rows).T).numpy().astype(float) for net in (self.a, self.b)]
        alpha, beta = (table[curricula.examples].sum(axis=2) for table in tables)
        return roll_out(alpha[None], beta, first_values)


def train_published(size: Size, data: Data, seconds: float, goal: float) -> dict[str, float]:
    """Train until the validation runs' roll-out is as good as the goal, or the seconds are over.

    Returns:
        CPU seconds, those of one step, and the best MSE.
    """
    model = Published(data.features)
    steps_in_all = size.epochs * (size.runs * size.steps * size.tests // BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=size.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, 1.0) * (1 - step / steps_in_all)
    )
    fitting = ~data.dynamics.validate
    values = torch.from_numpy(data.dynamics.values[fitting]).float()
    examples = torch.from_numpy(data.curricula.examples[fitting])
    measured = data.dynamics.values[~fitting]
    draw = torch.Generator().manual_seed(42)
    items = size.runs * size.steps * size.tests
    spent, best, step, since_check = 0.0, float("inf"), 0, 0.0
    while spent < seconds and best > goal and step < steps_in_all:
        began = time.process_time()
        item = torch.randint(items, (BATCH,), generator=draw)
        run, at, test = item // (size.steps * size.tests), item // size.tests % size.steps, item % size.tests
        predicted = model(values[run, at, test], examples[run, at], test)
        loss = torch.nn.functional.mse_loss(predicted, values[run, at + 1, test])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        taken = time.process_time() - began
        spent, since_check, step = spent + taken, since_check + taken, step + 1
        if since_check > 5 or spent >= seconds:  # far more often than once an epoch, which is to its advantage
            found = model.simulate(data.curricula.of(~fitting), measured[:, :1])
            best, since_check = min(best, all_steps_mse(found, measured, 1)), 0.0
    return {"seconds": spent, "step": spent / step, "mse": best}


def fits(times: float) -> None:
    """Compare fits."""
    for name, size in SIZES.items():
        ours = alone(fitted, size, bilinear())
        data = made(size)
        measured, fitting = data.dynamics.values[data.dynamics.validate], ~data.dynamics.validate
        curve = data.dynamics.values[fitting].mean(axis=0)
        row: dict[str, Any] = {"name": f"fit_{name}", "ours": ours["seconds"]}
        if name == "fine_tuning":
            other = train_published(size, data, times * ours["seconds"], ours["mse"])
            row |= {"other": other["seconds"], "ratio": other["seconds"] / ours["seconds"], "unit": "CPU s"}
            row |= {"reached": other["mse"] <= ours["mse"], "other_mse": other["mse"]}
        else:
            other = train_published(size, data, 20.0, 0.0)
            in_all = other["step"] * size.epochs * (size.runs * size.steps * size.tests // BATCH)
            row |= {"other": in_all, "ratio": in_all / ours["seconds"], "unit": "CPU s", "other_is": "scaled up"}
        row |= {"ours_mse": ours["mse"], "ours_mb": ours["mb"]}
        row |= {"mean_curve_mse": all_steps_mse(np.broadcast_to(curve, measured.shape), measured, 1)}
        row |= {"persistence_mse": all_steps_mse(np.broadcast_to(measured[:, :1], measured.shape), measured, 1)}
        print(json.dumps(row), flush=True)
        cheap = alone(fitted, size, response())
        row = {"name": f"fit_gradient_response_{name}", "ours": cheap["seconds"], "other": ours["seconds"]}
        row |= {"ratio": ours["seconds"] / cheap["seconds"], "unit": "CPU s", "ours_mb": cheap["mb"]}
        print(json.dumps(row), flush=True)
    size = SIZES["fine_tuning"]
    whole = {"bilinear": alone(fitted, size, bilinear()), "gradient_response": alone(fitted, size, response())}
    for kind, make in (("bilinear", bilinear), ("gradient_response", response)):
        for field in ("runs", "steps", "tests", "features"):
            half = alone(fitted, size._replace(**{field: getattr(size, field) // 2}), make())
            row = {"name": f"fit_{kind}_growth_{field}", "ours": whole[kind]["seconds"], "other": half["seconds"]}
            print(json.dumps(row | {"ratio": row["ours"] / row["other"], "unit": "CPU s"}), flush=True)


def simulations() -> None:
    """Compare roll-outs."""
    for name, size in SIZES.items():
        data = made(size)
        published = Published(data.features).requires_grad_(requires_grad=False)
        mlp = Mlp(1, "given", "sum", "zero", TRAINING)
        mlp.train, mlp.test = data.features.train, data.features.test
        mlp.weights = _weights(published)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            simulated = mlp.simulate(data.new, data.first_values)
            times.append(time.perf_counter() - began)
        ours = sorted(times)[len(times) // 2]
        wanted = HELD_OUT * size.tests if name == "fine_tuning" else 100
        began = time.perf_counter()
        for trajectory in range(wanted):
            run, test = trajectory % HELD_OUT, trajectory // HELD_OUT
            value = torch.tensor([data.first_values[run, 0, test]], dtype=torch.float32)
            found = [value]
            for batch in torch.from_numpy(data.new.examples[run]):
                found.append(published(found[-1], batch[None], torch.tensor([test])))
            np.testing.assert_allclose(torch.cat(found), simulated[run, :, test], rtol=1e-4, atol=1e-6)
        other = (time.perf_counter() - began) * HELD_OUT * size.tests / wanted
        row = {"name": f"simulate_{name}", "ours": ours, "other": other, "ratio": other / ours, "unit": "s"}
        print(json.dumps(row | {"trajectories": HELD_OUT * size.tests, "run_one_by_one": wanted}), flush=True)


def _weights(published: Published) -> dict[str, np.ndarray]:
    """Return the published networks' weights as `Mlp` holds them; scaled down, so that roll-outs stay finite."""
    with torch.no_grad():
        for net in (published.a, published.b):
            net[2].weight.mul_(0.3)
            net[2].bias.mul_(0.3)
    nets = (published.a, published.b)
    arrays = {f"weight_{i + 1}": np.stack([net[2 * i].weight.numpy().T for net in nets]) for i in range(2)}
    return arrays | {f"bias_{i + 1}": np.stack([net[2 * i].bias.numpy()[None] for net in nets]) for i in range(2)}


def scan() -> None:
    """Compare the scan with what the memory gives."""
    size = SIZES["instruction_tuning"]
    draw = np.random.default_rng(1)
    shape = (HELD_OUT, size.steps, size.tests)
    alpha, beta = 1 + draw.normal(scale=1e-3, size=(1, *shape)), draw.normal(size=shape)
    first = draw.normal(size=(HELD_OUT, 1, size.tests))
    times: list[list[float]] = [[], []]
    for _ in range(15):
        for kept, call in zip(
            times, (lambda: roll_out(alpha, beta, first), lambda: np.add(alpha[0], beta)), strict=True
        ):
            began = time.perf_counter()
            call()
            kept.append(time.perf_counter() - began)
    ours, other = (min(kept) for kept in times)
    row = {"name": "simulate_scan_bandwidth", "ours": ours, "other": other, "ratio": other / ours, "unit": "s"}
    print(json.dumps(row | {"mb": 3 * beta.nbytes / 1e6, "other_gb_per_s": 3 * beta.nbytes / other / 1e9}), flush=True)


def main() -> None:
    """Run all, the short ones first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=500.0, help="how many times our seconds the published loop gets")
    times = parser.parse_args().times
    torch.set_num_threads(1)
    scan()
    simulations()
    fits(times)


if __name__ == "__main__":
    main()
