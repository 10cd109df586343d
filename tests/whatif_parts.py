"""Simulators of planted runs, with the names of their examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptfluence.simulators.data import GroupData
from gptfluence.simulators.files import save_simulator
from gptfluence.simulators.fit import describe_runs
from gptfluence.simulators.registry import make_method
from synthetic import METHOD_SETTINGS, planted


def save_planted(method: str, path: Path, **facts: Any) -> None:
    dynamics, curricula, features = planted(runs=8, steps=12)
    simulator = make_method(method, METHOD_SETTINGS[method])
    simulator.fit(dynamics, curricula, features)
    data = GroupData(tuple("abcdefgh"), dynamics, curricula, features, ("a", "b"), (4, 3))
    known = {"group": "g", "metric": "loss", "method": method, "format": "plain", "train_tasks": ["a"],
             "train_size": 24, "test_tasks": ["a", "b"], "test_sizes": {"a": 4, "b": 3}, "encoder": None}  # fmt: skip
    save_simulator(simulator, path, known | {"fitted_on": describe_runs(data, simulator.start)} | facts)
