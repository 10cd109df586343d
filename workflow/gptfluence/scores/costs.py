"""What a simulated trajectory costs (paper, Table 13): results/scores/costs.parquet.

Times are measured when this runs, on the machine that its provenance names; they are not the same twice.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from gptfluence.simulators.base import Curricula, Simulator
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.data import load_group
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.mlp import Mlp
from gptfluence.simulators.simfluence import Simfluence

log = logging.getLogger("gptfluence")

REPEATS = 7
"""How often a call is timed: the median counts."""

ONE_RUN, ALL_RUNS, ONE_TEST, FLOPS = "one_run", "all_runs", "one_test", "flops"

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("group", "scenario", "model", "method", "measure")]
    + [("value", pa.float64())]
    + [(name, pa.int32()) for name in ("runs", "steps", "tests")]
)
"""measure: one_run (seconds of the wall clock of a call that simulates one run on all tests), all_runs (that of a call
for all held-out runs), one_test (of attribution: CPU seconds of its scores, by the number of tests), flops (products of
two numbers in one step of one trajectory); runs, steps, tests: of how many trajectories of which length."""


def measure_costs(spec: dict[str, Any], output: Path) -> None:
    """Time every simulator of a group on its held-out runs, and count what a step multiplies.

    Args:
        spec: as for `fit_simulator`, with the held-out runs, simulators ({method: path}), batch (training examples a
            step) and seconds (path of what attribution took, or None).
        output: Parquet, see `SCHEMA`.

    Raises:
        UserError: a file is missing, damaged or of another plan.
    """
    data = load_group(spec | {"features": None})
    values, curricula = data.dynamics.values, data.curricula
    runs, steps, tests = len(values), values.shape[1] - 1, values.shape[2]
    where = {name: spec[name] for name in ("group", "scenario", "model")} | {"steps": steps, "tests": tests}
    rows = []
    for name, path in spec["simulators"].items():
        simulator, _ = load_simulator(path)
        for measure, some in {ONE_RUN: np.arange(1), ALL_RUNS: np.arange(runs)}.items():
            seconds = _time(simulator, curricula.of(some), values[some])
            rows.append(where | {"method": name, "measure": measure, "value": seconds, "runs": len(some)})
        products = count_products(simulator, spec["batch"])
        if products is not None:
            rows.append(where | {"method": name, "measure": FLOPS, "value": float(products), "runs": 1})
        log.info("%s: timed", name)
    for name, seconds in _read_seconds(spec["seconds"]).items():
        rows.append(where | {"method": name, "measure": ONE_TEST, "value": seconds / tests, "runs": 1})
    write_parquet(output, pa.Table.from_pylist(rows, SCHEMA), {"costs": {"machine": describe_machine()}})


def count_products(simulator: Simulator, batch: int) -> int | None:
    """Return how many numbers one step of one trajectory multiplies, as the paper counts; None: not known.

    That is without what can be computed once for all steps, runs or tests, from the vectors of the batch's examples and
    of the test; a batch is aggregated first. An addition counts where nothing is multiplied.
    """
    if isinstance(simulator, Simfluence):
        return len(simulator.factors) * batch
    if isinstance(simulator, Bilinear):
        factors, p, q = simulator.matrices.shape
        return batch * p + factors * (p * q + q)
    if isinstance(simulator, Mlp):
        vectors = batch + 1
        return vectors * sum(int(w.size) for name, w in simulator.weights.items() if name.startswith("weight"))
    if isinstance(simulator, GradientResponse):
        kernels = len(simulator.names)
        return kernels * batch + 2 * simulator.responses.columns
    return None


def describe_machine() -> str:
    """Return processor, cores and system, as far as they are known."""
    names = []
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, one thread of {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _time(simulator: Simulator, curricula: Curricula, values: Any) -> float:
    """Return the median of the seconds that a call takes; the first one warms up."""
    first_values = values[:, : simulator.start]
    return _median(lambda: simulator.simulate(curricula, first_values))


def _median(call: Callable[[], Any]) -> float:
    passed = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        call()
        passed.append(time.perf_counter() - start)
    return float(np.median(passed[1:]))


def _read_seconds(path: str | None) -> dict[str, float]:
    """Return the CPU seconds of the gradient methods that replay a run, by method."""
    if path is None:
        return {}
    try:
        seconds = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Delete it and run snakemake again.") from None
    return {name: seconds[name] for name in ("tracin_cp", "grad_dot") if name in seconds}
