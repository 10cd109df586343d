"""The interface of every simulator, and the arrays it works on.

A simulator answers: given a curriculum and the first value(s) of a metric on test examples, what is its trajectory?
One step, for test example z and the batch c_t (paper, eq. 4-5), with m the metric:

    m_t(z) = sum_j alpha_j(c_t, z) m_{t-j}(z) + beta(c_t, z)

Fits and roll-outs compute in float64 whatever they are given; only the networks of `mlp` are trained in float32. What
is stored as float32 elsewhere (recorded metrics, vectors of examples, attribution scores, gradient kernels) enters with
a relative rounding error of 6e-8; simulations are stored as float32. Saved simulators keep the precision they have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError

Array = NDArray[np.float64]

UNBOUNDED: Array = np.array([-np.inf, np.inf])
"""The extent of a metric of which nothing is known."""


@dataclass(frozen=True)
class Dynamics:
    """One metric, measured at every step of several runs on the same test examples.

    Attributes:
        values: [runs, steps + 1, tests]; index 0 of the second axis is before the first update.
        validate: [runs] of bool; True: the run serves to choose hyper-parameters, False: to fit.
    """

    values: Array
    validate: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Compute in float64."""
        object.__setattr__(self, "values", np.asarray(self.values, float))

    def check(self, validation: bool) -> None:
        """Check that there are runs to fit and, if a method chooses by them, runs to validate.

        Raises:
            UserError: there are none.
        """
        validate = int(self.validate.sum())
        fit = len(self.validate) - validate
        if not fit or (validation and not validate):
            raise UserError(f"a fit needs runs to fit and runs to validate; there are {fit} and {validate}")


@dataclass(frozen=True)
class Curricula:
    """What several runs trained on.

    Attributes:
        examples: [runs, steps, batch], rows of `Features.train`; [:, t - 1] is the batch of update t.
        rates: [runs, steps], the learning rate of each update; if left out, in units of the first, as it decays
            linearly.
    """

    examples: NDArray[np.int64]
    rates: Array = None  # type: ignore[assignment]  # never None after construction

    def __post_init__(self) -> None:
        """Fill in the rates."""
        if self.rates is None:
            runs, steps, _ = self.examples.shape
            object.__setattr__(self, "rates", np.tile(linear_decay(1.0, steps), (runs, 1)))

    def of(self, runs: NDArray[np.bool_] | NDArray[np.int64]) -> Curricula:
        """Return those of some runs, told by a mask or by their numbers."""
        return Curricula(self.examples[runs], self.rates[runs])


def linear_decay(first: float, steps: int) -> Array:
    """Return the learning rate of each update, [steps], as runs are trained: it falls linearly, to 0 after the last."""
    return first * (1 - np.arange(steps) / steps)


class Part(NamedTuple):
    """Runs of one length and batch: all of a group, or those of one schedule."""

    dynamics: Dynamics
    curricula: Curricula


@dataclass(frozen=True)
class Attribution:
    """What attribution methods say of the influence of each training example on each test example.

    Attributes:
        scores: by method, [train examples, tests]; above zero: training on the example lowers the test's loss.
        tokens: [train examples], how many tokens of each are trained on: its weight in the loss of a batch.
    """

    scores: dict[str, NDArray[np.float32]]
    tokens: NDArray[np.int64]


@dataclass(frozen=True)
class Kernels:
    """Products of the gradients of training and test examples at checkpoints of a run.

    Attributes:
        steps: [checkpoints], updates before each; the first is 0.
        tokens: [train examples], as in `Attribution`.
        values: by name, [checkpoints, train examples, tests].
    """

    steps: NDArray[np.int64]
    tokens: NDArray[np.int64]
    values: dict[str, NDArray[np.floating]]

    @classmethod
    def none(cls) -> Kernels:
        """Return those of no examples."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), {})

    def only(self, names: tuple[str, ...]) -> Kernels:
        """Return some kernels."""
        return Kernels(self.steps, self.tokens, {name: self.values[name] for name in names})

    def in_double(self) -> Kernels:
        """Return the same in double precision."""
        values = {name: np.asarray(kernel, float) for name, kernel in self.values.items()}
        return Kernels(self.steps, self.tokens, values)

    def spans(self, name: str, steps: int) -> Iterator[tuple[int, int, NDArray[np.floating]]]:
        """Return, for each checkpoint, the updates (from 0: start, stop) that it stands for, and the kernel there."""
        stops = np.append(self.steps[1:], steps)
        return zip(self.steps.tolist(), stops.tolist(), self.values[name], strict=True)


@dataclass(frozen=True)
class Features:
    """Frozen features of the examples.

    Attributes:
        train: [train examples, width], seen and unseen ones.
        test: [tests, width], in the order of `Dynamics.values`' last axis.
        attribution: scores of pairs of the two, or None if the method needs none.
        kernels: of the two, or None if the method needs none.
        test_task: [tests], the number of each test's task; if left out, all are of one.
    """

    train: Array
    test: Array
    attribution: Attribution | None = None
    kernels: Kernels | None = None
    test_task: NDArray[np.int64] = None  # type: ignore[assignment]  # never None after construction

    def __post_init__(self) -> None:
        """Fill in the tasks; compute in float64."""
        object.__setattr__(self, "train", np.asarray(self.train, float))
        object.__setattr__(self, "test", np.asarray(self.test, float))
        if self.test_task is None:
            object.__setattr__(self, "test_task", np.zeros(len(self.test), np.int64))

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return int(self.test_task.max(initial=-1)) + 1

    def of_tests(self, tests: NDArray[np.bool_] | NDArray[np.int64]) -> Features:
        """Return those of some tests, told by a mask or by their numbers, with all training examples."""
        attribution, kernels = self.attribution, self.kernels
        if attribution is not None:
            scores = {method: values[:, tests] for method, values in attribution.scores.items()}
            attribution = replace(attribution, scores=scores)
        if kernels is not None:
            kernels = replace(kernels, values={name: values[..., tests] for name, values in kernels.values.items()})
        return Features(self.train, self.test[tests], attribution, kernels, self.test_task[tests])


class Simulator(ABC):
    """Fitted on recorded runs, simulates others; its state is a dict of arrays and a dict of JSON values."""

    start: int = 1
    """How many first values `simulate` is given (the Markov order, unless stated otherwise)."""
    extent: Array = UNBOUNDED
    """Least and greatest value of the fitting runs, near which roll-outs stay, see `rollout.bounds`; until a fit has
    chosen its hyper-parameters, and for methods that repeat what was measured, no bounds."""

    @abstractmethod
    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit on the fitting runs; choose hyper-parameters by the roll-out's all-steps MSE on the validation runs."""

    @abstractmethod
    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out whole trajectories.

        Args:
            curricula: of the runs to simulate.
            first_values: [runs, start, tests], the metric at steps 0 .. start - 1.

        Returns:
            [runs, steps + 1, tests], finite; the first `start` steps are the given values.
        """

    def transfer(self, features: Features, first_values: Array) -> Self | None:
        """Return the fitted simulator for other tests of the same tasks, which no fitting run has measured.

        Args:
            features: of the same training examples, and of those tests.
            first_values: [tests], the metric of each before the first update.

        Returns:
            A simulator of its own; None: the method knows tests by their measurements alone.
        """
        return None

    def extend(self, features: Array) -> Self | None:
        """Return the fitted simulator with further training examples behind those that it knows.

        Args:
            features: [new examples, width], of the kind that it was fitted on.

        Returns:
            A simulator of its own; None: the method knows training examples by their runs or gradients alone.
        """
        return None

    def half_widths(self, curricula: Curricula) -> Array | None:
        """Return half the widths of intervals around what is simulated, one at a time and not of whole trajectories.

        Returns:
            [levels, runs, steps + 1, tests], in the levels of `words.LEVELS`, in the metric's unit; None: not known.
        """
        return None

    def distances(self, curricula: Curricula) -> Array | None:
        """Return how far each run's curriculum is from the fitted ones, in units of the farthest of them.

        Returns:
            [runs]; above 1: farther than any curriculum was from the others when the simulator was fitted. None: not
            known.
        """
        return None

    def choose(self, candidates: Curricula, number: int) -> NDArray[np.int64] | None:
        """Return which runs should be trained next to fit on, the first best; None: the method does not know."""
        return None

    @abstractmethod
    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return everything that `simulate` needs: named arrays, and JSON-able values."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
