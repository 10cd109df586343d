"""Gradient response: the mean curve, and how a curriculum's gradients move a trajectory away from it.

With a_t(z) the mean of m_t(z) over the fitting runs (of tests that they did not measure: a `predicted_curve`), and r_kt
the `responses` to the batches' shares of the loss less their mean over the fitting runs at step t:

    m_t(z) = a_t(z) + sum_k w_k(task of z) r_kt(z)

A response r_k is a roll-out with nothing fitted in it: what the optimiser's momentum makes of the batches' gradients
(as Adam's first moment, corrected for its start), added up, and forgotten at a rate. One response of momentum 0 and
decay 1 is TracIn, less its mean. Why more than one: later steps undo part of what a batch did, the faster the larger
its gradient, and AdamW divides by a history that the kernel only expects. Weights w_k, one a task and response, are all
that is fitted: by ridge regression of whole trajectories, so the error of the roll-out is what is least, and nothing
can explode, since trajectories are sums of responses.

How sure weights are is seen from those that are fitted without each run in turn (the jackknife): with q the mean square
of what a run is predicted to deviate in a task's tests, and v the mean variance of that over those weights, q / (q + v)
of it is believed. A curriculum near the fitted ones keeps its prediction; one that asks for what the fitting runs did
not show, such as a pool of other examples, is nearer the mean curve.

Neither training examples nor tests need have been seen: a kernel is all that is known of them.

Intervals come from the errors that are made in each fitting run without it: the quantile, over all cells, of an error
in units of what its step and test have on average. Part of an error is what the kernels do not know of an example,
independent of the other examples; so the variance of this part (`OWN`) grows with the squares by which what was trained
on so far differs, example by example, from the mean of the fitting runs. Where the curve is a predicted one, its errors
in each measured test without it come in addition, and quantiles are those of the sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Kernels, Simulator
from gptfluence.simulators.predicted_curve import PredictedCurve
from gptfluence.simulators.responses import Kernel, Responses
from gptfluence.simulators.ridge import Moments, leverage_metric, mean_leverage, ridge_path
from gptfluence.simulators.rollout import confine, repeat_curve
from gptfluence.words import LEVELS

OWN = 0.25
"""Share of the variance of errors among fitting runs that is examples' own. The fitting runs do not tell it, as all are
about as far from their mean. It was chosen among 0, 1/4, 1/2, 3/4 and 1 on runs of the nano plan on pools that no
fitting run drew from, of RTE, SST-2 and BoolQ."""


class GradientResponse(Simulator):
    """The mean curve plus weighted responses to gradients."""

    kind = "gradient_response"

    def __init__(
        self,
        kernels: tuple[Kernel, ...],
        momenta: tuple[float, ...],
        decays: tuple[float, ...],
        strengths: tuple[float, ...],
    ) -> None:
        """Set the responses: every kernel with every momentum and decay.

        Args:
            kernels: which gradient kernels.
            momenta: of the average over past batches, in [0, 1); 0: the batch alone.
            decays: share of a response that is left after a step, in [0, 1].
            strengths: ridge strengths, where responses and trajectories have mean square 1; for each task the
                validation runs choose one.
        """
        self.names, self.momenta, self.decays = tuple(kernels), tuple(momenta), tuple(decays)
        self.strengths = tuple(strengths)
        self.chosen = np.empty(0)  # [tasks], strengths
        self.known = PredictedCurve(kernels, momenta, decays, strengths)
        self.responses = Responses(Kernels.none(), self.momenta, self.decays)
        self.task: NDArray[np.int64] = np.empty(0, np.int64)  # [tests]
        self.weights = self.spread = self.quantiles = np.empty((0, 0))
        self.unseen_quantiles = np.empty((0, 0))  # as `quantiles`, [tasks, levels], of tests with predicted curves
        self.errors = np.empty((0, 0))  # [steps, tests], of predicted curves
        self.apart = np.empty(0)  # [steps], see `_apart`: mean of the fitting runs, each without itself
        self.replicas = np.empty((0, 0, 0))  # [tasks, fitting runs, responses], weights without each run
        self.metrics, self.reach, self.rows = np.empty((0, 0, 0)), np.empty(0), np.empty(0)

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit every strength and keep, for each task, the one that is best on the validation runs (ties: the stronger).

        Raises:
            UserError: there are no kernels.
        """
        self.responses = Responses.make(self.kind, features, self.names, self.momenta, self.decays)
        self.task = features.test_task
        fitting = ~dynamics.validate
        self.known.fit(dynamics, curricula, features)
        self.extent = self.known.extent
        moments = [Moments.none(self.responses.columns) for _ in range(features.tasks)]
        for task, x, y in self._parts(dynamics, curricula, fitting):
            moments[task] = moments[task].plus(Moments.of(x, y))
        strengths = sorted(self.strengths, reverse=True)
        paths = [ridge_path(sums, strengths) for sums in moments]
        errors = np.zeros((len(moments), len(strengths)))
        for task, x, y in self._parts(dynamics, curricula, ~fitting):
            errors[task] += np.square(x @ paths[task].T - y[..., None]).sum(axis=(0, 1))
        best = errors.argmin(axis=1)  # the first of equals, which is the stronger
        self.chosen = np.array(strengths)[best]
        self.weights = np.array([path[i] for path, i in zip(paths, best, strict=True)])
        self._leave_out(dynamics, curricula, fitting, moments)

    def _leave_out(
        self, dynamics: Dynamics, curricula: Curricula, fitting: NDArray[np.bool_], moments: list[Moments]
    ) -> None:
        """Fit without each run in turn: replicas of the weights, and from the errors in the run left out intervals.

        Without run r of R, curve and mean shares are those of the others, from which r is R / (R - 1) times as far as
        from the mean of all; the sums of squares lack as much of r. So no run is read again but for its residuals.
        """
        runs, steps = int(fitting.sum()), len(self.known.curve) - 1
        self.errors, self.apart = np.zeros((steps, len(self.task))), np.zeros(steps)
        self.spread = np.full((steps, len(self.task)), np.nan)
        self.quantiles = np.full((len(moments), len(LEVELS)), np.nan)
        self.unseen_quantiles = self.quantiles.copy()
        self.metrics = np.array(
            [leverage_metric(sums, strength) for sums, strength in zip(moments, self.chosen, strict=True)]
        )
        self.rows = np.array([sums.rows for sums in moments])
        self.reach = np.zeros(len(moments))
        self.replicas = np.zeros((len(moments), runs if runs > 1 else 0, self.responses.columns))
        if runs < 2:
            return
        far = runs / (runs - 1)
        squares = np.square(far) * np.array(
            [
                self._apart(self.responses.shares(curricula, run), curricula.rates[run])
                for run in np.flatnonzero(fitting)
            ]
        )
        self.apart = squares.mean(axis=0)
        left_out: list[list[tuple[Array, Array, Array]]] = [[] for _ in moments]
        for task, x, y in self._parts(dynamics, curricula, fitting):
            own = Moments.of(x, y)
            others, number = moments[task].without(own, far), len(left_out[task])
            (weights,) = ridge_path(others, [self.chosen[task]])
            self.replicas[task, number] = weights
            self.reach[task] = max(self.reach[task], mean_leverage(far * x, leverage_metric(others, self.chosen[task])))
            left_out[task].append((far * y, far * (x @ weights), own.gram))
        errors = [
            [deviations - self._belief(gram, weights, task) * predicted
             for (deviations, predicted, gram), weights in zip(left_out[task], self.replicas[task], strict=True)]
            for task in range(len(moments))
        ]  # fmt: skip
        wider = self._wider(squares)[..., None]
        for task, found in enumerate(errors):
            found /= wider
            squares = np.square(found)
            # A product of what steps and what tests have, as a cell alone has but one error a run.
            of_steps, of_tests = squares.mean(axis=(0, 2)), squares.mean(axis=(0, 1))
            spread = np.sqrt(np.outer(of_steps, of_tests) / (squares.mean() or 1.0))
            self.spread[:, self.task == task] = spread
            sizes = np.divide(np.abs(found), spread, out=np.zeros_like(squares), where=spread > 0)
            self.quantiles[task] = np.quantile(sizes, LEVELS)
            misses = self.known.left_out[:, self.task == task]
            sums = np.hypot(_root_mean_square(spread), _root_mean_square(misses))[:, None]
            sizes = np.divide(np.abs(found + misses), sums, out=np.zeros_like(squares), where=sums > 0)
            self.unseen_quantiles[task] = np.quantile(sizes, LEVELS)

    def distances(self, curricula: Curricula) -> Array | None:
        """Return how far curricula are from the fitted ones; see `Simulator.distances`.

        The distance of a run is the leverage of its responses, x' (X'X / n + ridge)^-1 x, root of the mean over its
        steps and tests; what is given is the largest of the tasks', over that of the fitting runs, each without itself.
        """
        if np.isnan(self.spread).any():
            return None
        return np.array([self.distance(self._responses(curricula, run)) for run in range(len(curricula.examples))])

    def distance(self, responses: Array) -> float | None:
        """Return how far one run's responses, [steps, tests, responses], are; see `distances`."""
        if np.isnan(self.spread).any():
            return None
        found = 0.0
        for task, (metric, reach) in enumerate(zip(self.metrics, self.reach, strict=True)):
            distance = mean_leverage(responses[:, self.task == task], metric)
            found = max(found, distance / reach if reach else float(distance > 0))
        return found

    def choose(self, candidates: Curricula, number: int) -> NDArray[np.int64]:
        """Choose curricula by D-optimality, greedily: each adds most to the log determinant of X'X / n + ridge.

        Of a run no more is known than its curriculum, so its responses are what it tells the weights. See
        `Simulator.choose`.
        """
        informations = [np.linalg.inv(metric) * rows for metric, rows in zip(self.metrics, self.rows, strict=True)]
        grams = [[] for _ in informations]
        for run in range(len(candidates.examples)):
            responses = self._responses(candidates, run)
            for task, of_task in enumerate(grams):
                rows = responses[:, self.task == task].reshape(-1, self.responses.columns)
                of_task.append(rows.T @ rows)
        chosen: list[int] = []
        for _ in range(min(number, len(candidates.examples))):
            gains = np.zeros(len(candidates.examples))
            for information, of_task in zip(informations, grams, strict=True):
                root = np.linalg.inv(np.linalg.cholesky(information))
                gains += np.linalg.slogdet(np.eye(len(root)) + root @ np.array(of_task) @ root.T)[1]
            gains[chosen] = -np.inf
            chosen.append(int(gains.argmax()))
            informations = [m + of_task[chosen[-1]] for m, of_task in zip(informations, grams, strict=True)]
        return np.array(chosen, np.int64)

    def transfer(self, features: Features, first_values: Array) -> Self:
        """Predict other tests' curves; responses come from their kernels, weights from their tasks' measured tests.

        See `Simulator.transfer`.
        """
        other = copy(self)
        other.known = self.known.transfer(features, first_values)
        other.responses = Responses.make(self.kind, features, self.names, self.momenta, self.decays)
        other.task = features.test_task
        # What a step's errors are in measured tests, and the predicted curves' own, which are independent of them.
        other.spread, other.errors = (
            np.array([_root_mean_square(part[:, self.task == task]) for task in range(len(self.weights))])[other.task].T
            for part in (self.spread, self.known.left_out)
        )
        other.quantiles = self.unseen_quantiles
        return other

    def half_widths(self, curricula: Curricula) -> Array | None:
        """Return half the widths of the intervals; see `Simulator.half_widths`."""
        runs = range(len(curricula.examples))
        return self.widths(np.array([self.responses.shares(curricula, run) for run in runs]), curricula.rates)

    def widths(self, shares: Array, rates: Array) -> Array | None:
        """Return half the widths of the intervals of runs; see `half_widths`.

        Args:
            shares: of each example in each batch's loss, [runs, steps, train].
            rates: [runs, steps], learning rates.
        """
        if np.isnan(self.spread).any() or np.isnan(self.errors).any():
            return None
        wider = self._wider(np.array([self._apart(*run) for run in zip(shares, rates, strict=True)]))
        spread = np.hypot(wider[..., None] * self.spread, self.errors)  # [runs, steps, tests]
        return np.pad(self.quantiles[self.task].T[:, None, None] * spread, ((0, 0), (0, 0), (1, 0), (0, 0)))

    def _apart(self, shares: Array, rates: Array) -> Array:
        """Return by what a run's examples differ, up to each step, from the mean of the fitting runs, [steps].

        It is the sum over examples of squares; an example counts by its shares of batches, [steps, train], times
        learning rates, [steps].
        """
        spent = np.cumsum(rates[:, None] * (shares - self.known.shares), axis=0)
        return np.square(spent).sum(axis=1)

    def _wider(self, apart: Array) -> Array:
        """Return how wide intervals are, in units of the fitting runs' mean; apart: [runs, steps], see `_apart`."""
        ratio = np.divide(apart, self.apart, out=np.ones_like(apart), where=self.apart > 0)
        return np.sqrt(1 - OWN + OWN * ratio)

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Add up the responses; see `Simulator.simulate`. The given value stands, and moves nothing after it.

        Raises:
            UserError: the runs have another number of steps than the fitting runs.
        """
        values = repeat_curve(self.kind, self.known.curve, curricula)
        for run in range(len(values)):
            responses = self._responses(curricula, run)
            for task, weights in enumerate(self.weights):
                of_task = responses[:, self.task == task]
                rows = of_task.reshape(-1, self.responses.columns)
                values[run, 1:, self.task == task] += self._belief(rows.T @ rows, weights, task) * (of_task @ weights).T
        values[:, :1] = first_values
        return confine(values, 1, self.extent)

    def _belief(self, gram: Array, weights: Array, task: int) -> float:
        """Return which share of a prediction is believed, in [0, 1].

        Args:
            gram: products of the responses that are predicted from, [responses, responses].
            weights: [responses], what they are predicted with.
            task: whose replicas tell the variance.
        """
        apart = self.deviations(task)
        return self.belief(weights @ gram @ weights, np.einsum("ri,ij,rj->", apart, gram, apart))

    def deviations(self, task: int) -> Array:
        """Return what replicas of a task's weights deviate from their mean, [replicas, responses].

        They are scaled so that the sum of the squares of what they predict is the jackknife's variance.
        """
        replicas = self.replicas[task]
        if not len(replicas):
            return replicas
        return np.sqrt((len(replicas) - 1) / len(replicas)) * (replicas - replicas.mean(axis=0))

    @staticmethod
    def belief(square: float, variance: float) -> float:
        """Return which share of a prediction is believed; `square` and `variance` of it, over its steps and tests."""
        return float(square / (square + variance)) if square > 0 else 0.0

    def _parts(
        self, dynamics: Dynamics, curricula: Curricula, runs: NDArray[np.bool_]
    ) -> Iterator[tuple[int, Array, Array]]:
        """Yield, of each run and task, the task, responses [steps, its tests, responses] and deviations [steps, tests].

        One run at a time is in memory.
        """
        for run in np.flatnonzero(runs):
            responses = self._responses(curricula, run)
            deviations = dynamics.values[run, 1:] - self.known.curve[1:]
            for task in range(int(self.task.max(initial=-1)) + 1):
                yield task, responses[:, self.task == task], deviations[:, self.task == task]

    def _responses(self, curricula: Curricula, run: int) -> Array:
        """Return r_kt(z), [steps, tests, responses]."""
        return self.responses.of(self.responses.shares(curricula, run) - self.known.shares, curricula.rates[run])

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return weights ([tasks, responses]), what intervals and distances need, kernels, and the curve's state."""
        curve, values = self.known.state()
        arrays = {name: getattr(self, name) for name in _ARRAYS} | self.responses.arrays()
        arrays |= {f"curve.{name}": array for name, array in curve.items()}
        chosen = {f"strength of task {i + 1}": strength for i, strength in enumerate(self.chosen)}
        return arrays, {"settings": values["settings"], "chosen": chosen | values["chosen"]}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        for name in _ARRAYS:
            setattr(simulator, name, arrays[name])
        curve = {name.removeprefix("curve."): array for name, array in arrays.items() if name.startswith("curve.")}
        simulator.known = PredictedCurve.from_state(curve, values)
        simulator.extent = simulator.known.extent
        simulator.responses = Responses.from_arrays(arrays, simulator.names, simulator.momenta, simulator.decays)
        return simulator


def _root_mean_square(values: Array) -> Array:
    """Return it over tests; values: [steps, tests]."""
    return np.sqrt(np.square(values).mean(axis=1))


_ARRAYS = (
    *("weights", "replicas", "chosen", "task", "metrics", "reach", "rows"),
    *("spread", "quantiles", "unseen_quantiles", "errors", "apart"),
)
