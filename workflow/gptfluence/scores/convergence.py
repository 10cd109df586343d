"""How simulators converge that Adam trains (paper, Fig. 9): results/scores/convergence.parquet.

After every epoch, and before the first: the training loss, which is the mean squared error of single steps on the
fitting runs, and the all-steps MSE of roll-outs of the validation runs. Beside them, what the exact solution of equal
settings reaches, and baselines that know nothing of the training examples. A fit says nothing of its epochs, but it
rolls the validation runs out after each of them: there it is watched.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gptfluence.io import write_parquet
from gptfluence.simulators.base import Array, Curricula, Dynamics, Simulator
from gptfluence.simulators.data import GroupData, load_group, read_features
from gptfluence.simulators.registry import make_method
from gptfluence.simulators.rollout import all_steps_mse, validation_mse

log = logging.getLogger("gptfluence")

ADAM, EXACT, TRIVIAL = "adam", "exact", "trivial"

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("group", "scenario", "model", "method", "solved")]
    + [(name, pa.int32()) for name in ("epoch", "update")]
    + [(name, pa.float64()) for name in ("training_loss", "validation_mse")]
)
"""solved: adam, exact or trivial; epoch and update: after how many, null where there are none; training_loss, which the
mean curve has not, and validation_mse: in squared units of the metric; null where they are not finite."""


def judge_convergence(spec: dict[str, Any], output: Path) -> None:
    """Fit methods by Adam and exactly, and record how near each comes.

    Args:
        spec: as for `fit_simulator`, with methods and trivial ({method: settings, features, table, kernels}) in place
            of one method; the settings of `methods` have `adam`.
        output: Parquet, see `SCHEMA`.

    Raises:
        UserError: a file is missing, damaged or of another plan, or a method does not fit.
    """
    data = load_group(spec | {"features": None})
    where = {name: spec[name] for name in ("group", "scenario", "model")}
    rows = []
    for name, method in spec["methods"].items():
        settings = method["settings"]
        for epoch, (loss, error) in enumerate(_watch_fit(name, method, data, spec)):
            update = epoch * _updates(settings["adam"]["batch"], data)
            rows.append({"method": name, "solved": ADAM, "epoch": epoch, "update": update} | _values(loss, error))
        exact = method | {"settings": settings | {"adam": None}}
        rows.append({"method": name, "solved": EXACT} | _values(*_fit(name, exact, data, spec)))
        log.info("%s: fitted", name)
    for name, method in spec["trivial"].items():
        rows.append({"method": name, "solved": TRIVIAL} | _values(*_fit(name, method, data, spec)))
    provenance = {key: spec[key] for key in ("group", "metric", "methods")}
    write_parquet(output, pa.Table.from_pylist([where | row for row in rows], SCHEMA), provenance)


def training_loss(simulator: Simulator, dynamics: Dynamics, curricula: Curricula) -> float:
    """Return the mean squared error of single steps from the true previous value, on the fitting runs.

    Every step is simulated as a run of its own; `simulator` is of order 1.
    """
    fitting = ~dynamics.validate
    values, runs = dynamics.values[fitting], curricula.of(fitting)
    before, after = (part.reshape(-1, 1, part.shape[2]) for part in (values[:, :-1], values[:, 1:]))
    steps = Curricula(runs.examples.reshape(len(before), 1, -1), runs.rates.reshape(-1, 1))
    return all_steps_mse(simulator.simulate(steps, before), np.concatenate([before, after], axis=1), 1)


def _watch_fit(name: str, method: dict[str, Any], data: GroupData, spec: dict[str, Any]) -> list[tuple[float, float]]:
    """Fit by Adam; return training loss and validation MSE at first and after each epoch."""
    simulator = make_method(name, method["settings"])
    measured = data.dynamics.values[data.dynamics.validate]
    roll_out, found = simulator.simulate, []

    def watch(curricula: Curricula, first_values: Array) -> Array:
        simulated = roll_out(curricula, first_values)
        if len(curricula.examples) == len(measured) and curricula.examples.shape[1] == measured.shape[1] - 1:
            simulator.simulate = roll_out  # a training loss is not to be watched
            found.append(
                (training_loss(simulator, data.dynamics, data.curricula), all_steps_mse(simulated, measured, 1))
            )
            simulator.simulate = watch
        return simulated

    simulator.simulate = watch  # type: ignore[method-assign]
    simulator.fit(data.dynamics, data.curricula, read_features(spec | method))
    return found[:-1]  # the last roll-out is of the weights that are kept


def _fit(name: str, method: dict[str, Any], data: GroupData, spec: dict[str, Any]) -> tuple[float, float]:
    """Fit a method; return its training loss, nan where it simulates whole runs alone, and its validation MSE."""
    simulator = make_method(name, method["settings"])
    simulator.fit(data.dynamics, data.curricula, read_features(spec | method))
    whole = method["settings"]["kind"] == "mean_curve"
    loss = float("nan") if whole else training_loss(simulator, data.dynamics, data.curricula)
    return loss, validation_mse(simulator, data.dynamics, data.curricula)


def _updates(batch: int | None, data: GroupData) -> int:
    """Return the updates of one epoch, as `simulators.adam` counts them."""
    items = data.dynamics.values[~data.dynamics.validate, 1:].size
    return -(-items // (batch or items))


def _values(loss: float, error: float) -> dict[str, float | None]:
    return {
        "training_loss": loss if np.isfinite(loss) else None,
        "validation_mse": error if np.isfinite(error) else None,
    }
