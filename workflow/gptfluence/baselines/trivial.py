"""Baselines that know nothing of the training examples: what a simulator has to beat before it shows influence."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.rollout import extent_of, repeat_curve, roll_out


class Persistence(Simulator):
    """The first value stays."""

    kind = "persistence"

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Nothing is fitted."""

    def transfer(self, features: Features, first_values: Array) -> Self:
        """Return itself: a first value is all that it needs; see `Simulator.transfer`."""
        return self

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Repeat the first value; see `Simulator.simulate`."""
        return np.repeat(first_values, curricula.examples.shape[1] + 1, axis=1)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return nothing: there is no state."""
        return {}, {"chosen": {}}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the baseline."""
        return cls()


class GlobalAr1(Simulator):
    """m_t = slope m_{t-1} + offset, with two numbers for all test examples: by least squares."""

    kind = "global_ar1"

    def __init__(self) -> None:
        """Start as persistence."""
        self.slope, self.offset = 1.0, 0.0

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit slope and offset on one-step predictions; there is no hyper-parameter to choose."""
        dynamics.check(validation=False)
        values = dynamics.values[~dynamics.validate]
        self.extent = extent_of(dynamics)
        before, after = values[:, :-1].ravel(), values[:, 1:].ravel()
        centred = before - before.mean()
        variance = float(centred @ centred)
        # A metric that never changes tells no slope from an offset: persistence explains it as well as
        # anything.
        self.slope = float(centred @ after) / variance if variance else 1.0
        self.offset = float(after.mean() - self.slope * before.mean())

    def transfer(self, features: Features, first_values: Array) -> Self:
        """Return itself: its two numbers are of all tests; see `Simulator.transfer`."""
        return self

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out from one given value; see `Simulator.simulate`."""
        shape = (*curricula.examples.shape[:2], first_values.shape[2])
        return roll_out(np.full((1, *shape), self.slope), np.full(shape, self.offset), first_values, self.extent)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the extent, and the two numbers."""
        return {"extent": self.extent}, {"chosen": {}, "slope": self.slope, "offset": self.offset}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the baseline whose `state` this is."""
        baseline = cls()
        baseline.slope, baseline.offset = values["slope"], values["offset"]
        baseline.extent = arrays["extent"]
        return baseline


class MeanCurve(Simulator):
    """The mean trajectory of each test example over the fitting runs, whatever the curriculum and the first value."""

    kind = "mean_curve"

    def __init__(self) -> None:
        """Start without a curve."""
        self.curve: Array = np.empty((0, 0))  # [steps + 1, tests]

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Average the fitting runs; the validation runs have nothing to choose."""
        dynamics.check(validation=False)
        self.curve = dynamics.values[~dynamics.validate].mean(axis=0)

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Repeat the mean curve after the given value; see `Simulator.simulate`.

        Raises:
            UserError: the runs have another number of steps than the fitting runs.
        """
        values = repeat_curve("mean_curve", self.curve, curricula)
        values[:, :1] = first_values
        return values

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the curve: [steps + 1, tests]."""
        return {"curve": self.curve}, {"chosen": {}}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the baseline whose `state` this is."""
        baseline = cls()
        baseline.curve = arrays["curve"]
        return baseline
