"""Fits one simulator or baseline on one group's recorded runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from gptfluence.errors import UserError
from gptfluence.io import read_provenance
from gptfluence.simulators.base import Part
from gptfluence.simulators.data import GroupData, load_group
from gptfluence.simulators.files import save_simulator
from gptfluence.simulators.registry import make_method, make_pooled
from gptfluence.simulators.rollout import all_steps_mse, warn_of_confined

PROVENANCE_KEYS = (
    "group", "scenario", "model", "metric", "method", "settings", "format",
    "train_tasks", "train_size", "test_tasks", "test_sizes",
)  # fmt: skip

log = logging.getLogger("gptfluence")


def fit_simulator(spec: dict[str, Any], output: Path) -> None:
    """Fit a method on a group's fitting and validation runs and save it.

    Args:
        spec: group, scenario, model, metric, method (its name), settings (its kind and what goes with it),
            format (plain or instruction), train_tasks, train_size (examples a task, unseen ones included),
            test_tasks (those with this metric), test_sizes ({task: n}), runs (run_id, split, learning_rate (of the
            first update), hash, shard, curriculum each: paths; all of split fit or validate), features (path of the
            examples' vectors, or None), table and kernels (paths of the attribution scores and of the gradient
            kernels, or None); and schedules, if the method is to be fitted on runs under others, too: their runs, by
            schedule.
        output: the safetensors file to write.

    Raises:
        UserError: the runs cannot be read or do not fit together, or the method lacks what it needs.
    """
    splits = {run["split"] for run in spec["runs"]}
    if splits != {"fit", "validate"}:
        raise UserError(f"{spec['group']}: a fit needs runs to fit and runs to validate, got {sorted(splits)}")
    data = load_group(spec)
    parts = [Part(data.dynamics, data.curricula)]
    if "schedules" in spec:
        unread = dict.fromkeys(("features", "table", "kernels"))
        for runs in spec["schedules"].values():
            other = load_group(spec | unread | {"runs": runs})
            parts.append(Part(other.dynamics, other.curricula))
        simulator = make_pooled(spec["method"], spec["settings"], data.curricula.rates[0])
        simulator.fit_parts(parts, data.features)
    else:
        simulator = make_method(spec["method"], spec["settings"])
        simulator.fit(data.dynamics, data.curricula, data.features)
    errors = []
    for dynamics, curricula in parts:
        measured = dynamics.values[dynamics.validate]
        simulated = simulator.simulate(curricula.of(dynamics.validate), measured[:, : simulator.start])
        errors.append(all_steps_mse(simulated, measured, simulator.start))
        warn_of_confined(simulator, simulated, f"{spec['group']} {spec['metric']} {spec['method']}, validation")
    error = float(np.mean(errors))
    chosen = simulator.state()[1]["chosen"]
    log.info(
        "%s %s %s: %svalidation MSE %.4g",
        spec["group"],
        spec["metric"],
        spec["method"],
        "".join(f"{name} {value:g}, " for name, value in chosen.items()),
        error,
    )
    provenance = {key: spec[key] for key in PROVENANCE_KEYS}
    read = [run for runs in (spec["runs"], *spec.get("schedules", {}).values()) for run in runs]
    provenance["runs"] = {run["run_id"]: {"split": run["split"], "hash": run["hash"]} for run in read}
    provenance["schedules"] = list(spec.get("schedules", {}))
    provenance["validation_mse"] = error
    provenance["encoder"] = read_provenance(spec["features"]).get("encoder") if spec["features"] else None
    provenance["fitted_on"] = describe_runs(data, simulator.start)
    save_simulator(simulator, output, provenance)


def describe_runs(data: GroupData, start: int) -> dict[str, Any]:
    """Return what the fitting runs have in common, so that who has the simulator alone can ask for other curricula.

    Args:
        start: how many first values simulations are given.

    Returns:
        steps, batch, rates ([steps], the mean learning rate of each update), distinct (how many examples such a run
        trains on), trained (rows of the training examples that any of them trained on) and first_values ([start,
        tests], the mean value of each test before and at first updates).
    """
    fitting = ~data.dynamics.validate
    examples = data.curricula.examples[fitting]
    return {
        "steps": examples.shape[1],
        "batch": examples.shape[2],
        "rates": data.curricula.rates[fitting].mean(axis=0).tolist(),
        "distinct": int(np.median([len(np.unique(run)) for run in examples])),
        "trained": np.unique(examples).tolist(),
        "first_values": data.dynamics.values[fitting, :start].mean(axis=0).tolist(),
    }
