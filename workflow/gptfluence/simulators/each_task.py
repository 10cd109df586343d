"""One simulator for each test task, in place of one for all: what the paper's multi-task fit is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator


class EachTask(Simulator):
    """Simulators of equal settings, each fitted on the test examples of one task and with hyper-parameters of its own.

    The runs are the same: a mixture's examples influence the tests of every task.
    """

    kind = "each_task"

    def __init__(self, make: Callable[[], Simulator]) -> None:
        """Set what is fitted.

        Args:
            make: returns a simulator, not fitted.
        """
        self.make = make
        self.start = make().start
        self.inner: dict[int, Simulator] = {}  # by task
        self.test_task = np.zeros(0, np.int64)

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit one simulator a task; see `Simulator.fit`."""
        self.test_task = features.test_task
        for task in np.unique(self.test_task).tolist():
            tests = self.test_task == task
            self.inner[task] = self.make()
            own = Dynamics(dynamics.values[:, :, tests], dynamics.validate)
            self.inner[task].fit(own, curricula, features.of_tests(tests))

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out every task's tests; see `Simulator.simulate`."""
        runs, steps, _ = curricula.examples.shape
        values = np.empty((runs, steps + 1, len(self.test_task)))
        for task, simulator in self.inner.items():
            tests = self.test_task == task
            values[:, :, tests] = simulator.simulate(curricula, first_values[:, :, tests])
        return values

    def transfer(self, features: Features, first_values: Array) -> Self | None:
        """Transfer every task's simulator; see `Simulator.transfer`."""
        other = type(self)(self.make)
        other.test_task = features.test_task
        for task in np.unique(features.test_task).tolist():
            tests = features.test_task == task
            inner = self.inner[task].transfer(features.of_tests(tests), first_values[tests])
            if inner is None:
                return None
            other.inner[task] = inner
        return other

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the task of each test, [tests], and the state of every task's simulator, with its kind."""
        arrays, values = {"test_task": self.test_task}, {}
        for task, simulator in self.inner.items():
            found, values[str(task)] = simulator.state()
            arrays |= {f"{task}.{name}": array for name, array in found.items()}
        chosen = {f"{name}_{task}": value for task, own in values.items() for name, value in own["chosen"].items()}
        return arrays, {"kind": next(iter(self.inner.values())).kind, "inner": values, "chosen": chosen}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        from gptfluence.simulators.registry import find_method  # which knows this one, too

        inner = {}
        for task, own in values["inner"].items():
            parts = {name.removeprefix(f"{task}."): array for name, array in arrays.items() if "." in name
                     and name.split(".")[0] == task}  # fmt: skip
            inner[int(task)] = find_method(values["kind"]).from_state(parts, own)
        simulator = cls(lambda: next(iter(inner.values())))
        simulator.inner, simulator.test_task = inner, arrays["test_task"]
        return simulator
