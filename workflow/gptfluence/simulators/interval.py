"""A simulator of runs whose metrics are known at every k-th step alone (paper, Fig. 3: checkpoint interval).

What such a simulator makes of the steps between is one of two:

- jump: its step is k updates long. The batches between are one batch, and it is fitted and rolled out from one known
  step to the next; between them its trajectory is a straight line. A fit leaves a last interval that is cut short out;
  a roll-out fills it up with its own batches, again from the first, and is read where the run ends.
- hold (paper): a known value stands for the steps after it, up to the next one, and the simulator is fitted on every
  step of these runs and rolled out over every step, as on runs that are known at all of them.

Validation runs are known at the same steps. Of the steps up to the last given one (see `Simulator.start`) a jumping
simulator reads every k-th; all simulations are judged at all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator


class Interval(Simulator):
    """Another simulator, at every k-th step."""

    kind = "interval"

    def __init__(self, make: Callable[[], Simulator], interval: int, between: Literal["jump", "hold"]) -> None:
        """Set what is simulated, and how.

        Args:
            make: returns the simulator, not fitted.
            interval: k, updates from one known step to the next.
            between: what the steps between are; see the module.
        """
        self.inner = make()
        self.interval, self.between = interval, between
        self.start = (self.inner.start - 1) * interval + 1 if between == "jump" else self.inner.start

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit on what is known of the runs; see `Simulator.fit`.

        Raises:
            UserError: the runs are shorter than what is given and one interval more.
        """
        steps = curricula.examples.shape[1]
        if self.start - 1 + self.interval > steps:
            raise UserError(
                f"an interval of {self.interval} steps is too long for runs of {steps}, of which {self.start - 1} are "
                "given; set a shorter one, or a lower order, in params.yaml"
            )
        if self.between == "hold":
            known = np.arange(steps + 1) // self.interval * self.interval
            self.inner.fit(Dynamics(dynamics.values[:, known], dynamics.validate), curricula, features)
            return
        whole = steps // self.interval * self.interval
        known = Dynamics(dynamics.values[:, : whole + 1 : self.interval], dynamics.validate)
        cut = Curricula(curricula.examples[:, :whole], curricula.rates[:, :whole])
        self.inner.fit(known, self._merged(cut), features)

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out from the given values; see `Simulator.simulate`."""
        if self.between == "hold":
            return self.inner.simulate(curricula, first_values)
        points = self.inner.simulate(self._merged(curricula), first_values[:, :: self.interval])
        return self.between_points(points, first_values, curricula.examples.shape[1])

    def between_points(self, points: Array, first_values: Array, steps: int) -> Array:
        """Return trajectories, [runs, steps + 1, tests], of known points of them, [runs, intervals + 1, tests]."""
        before, part = np.divmod(np.arange(steps + 1), self.interval)
        after = np.minimum(before + 1, points.shape[1] - 1)
        share = (part / self.interval)[:, None]
        with np.errstate(over="ignore", invalid="ignore"):  # of roll-outs that explode
            values = (1 - share) * points[:, before] + share * points[:, after]
        values[:, : self.start] = first_values
        return values

    def _merged(self, curricula: Curricula) -> Curricula:
        """Return one batch for each interval, [runs, intervals, k x batch], with the mean of its learning rates."""
        runs, steps, _ = curricula.examples.shape
        updates = self.updates(steps)
        return Curricula(
            curricula.examples[:, updates].reshape(runs, len(updates), -1), curricula.rates[:, updates].mean(axis=2)
        )

    def updates(self, steps: int) -> NDArray[np.int64] | None:
        """Return the updates, from 0, of each step of a jumping simulator, [intervals, k]; None: it does not jump."""
        if self.between == "hold":
            return None
        starts = np.arange(0, steps, self.interval)[:, None]
        # A last, short interval repeats itself.
        return starts + np.arange(self.interval) % np.minimum(self.interval, steps - starts)

    def transfer(self, features: Features, first_values: Array) -> Self | None:
        """Transfer what is simulated; see `Simulator.transfer`."""
        inner = self.inner.transfer(features, first_values)
        return None if inner is None else type(self)(lambda: inner, self.interval, self.between)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the state of what is simulated, with its kind."""
        arrays, values = self.inner.state()
        own = {"kind": self.inner.kind, "interval": self.interval, "between": self.between}
        return arrays, own | {"inner": values, "chosen": values["chosen"]}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        from gptfluence.simulators.registry import find_method  # which knows this one, too

        inner = find_method(values["kind"]).from_state(arrays, values["inner"])
        return cls(lambda: inner, values["interval"], values["between"])
