"""One fit of runs under several schedules, so that learning rates, their course and batches are counterfactual, too.

Runs that differ in their rates are not alike at the same step. They are, nearly, at the same optimiser time: the sum of
the learning rates so far, tau_t = eta_1 + ... + eta_t. The curve that all share is one in that time:

    a_t(z) = mean of m_0(z) + sum_j c_j(z) b_j(tau_t) + c(z) eta'_t

with b_j linear splines that are 0 at tau = 0, and eta'_t the rates averaged as Adam's first moment averages gradients:
at the same time a run of a higher rate has a higher loss, which it sheds as its rate falls. To this come responses:

    m_t(z) = a_t(z) + sum_k w_k(task of z) (r_kt(z) - its own curve of the same form)

These are the `responses` to the batches' shares of the loss, less the usual shares: each step weighs by its own
learning rate, and has the kernel of the checkpoint at the same optimiser time. What is forgotten is a share a step, or
a share a unit of optimiser time, which is the mean rate of the run along which the kernels were measured; both are
offered. For one schedule, with as many splines as steps, this is `gradient_response` without its belief: what is left
of responses and trajectories when their curves are taken away are deviations from the mean over runs.

Behind the longest optimiser time of the fitting runs the splines stay as they are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import UNBOUNDED, Array, Curricula, Dynamics, Features, Kernels, Part, Simulator
from gptfluence.simulators.responses import Kernel, Responses, decaying_sum
from gptfluence.simulators.ridge import Moments, ridge_path
from gptfluence.simulators.rollout import confine, extent_of
from gptfluence.words import LEVELS

KNOTS = np.linspace(0, 1, 9) ** 1.5
"""Of the splines, shares of the longest optimiser time: closer where losses fall fastest."""
MOMENTUM = 0.9
"""Of the average over rates."""
_STIFFNESS = 1e-9  # of the curve, in units of rows: only to lead it in a line past knots that no run comes near


class Pooled(Protocol):
    """Fitted on the runs of several schedules at once, simulates runs of those and of others."""

    start: int

    def fit_parts(self, parts: Sequence[Part], features: Features) -> None:
        """Fit on all; hyper-parameters are chosen by the mean over parts of their validation runs' errors."""

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out; see `base.Simulator.simulate`."""
        ...

    def half_widths(self, curricula: Curricula) -> Array | None:
        """Return what is known of errors; see `base.Simulator.half_widths`."""


class _Time(NamedTuple):
    """The columns of a curve in optimiser time.

    Attributes:
        longest: sum of the learning rates of a run, of which the knots are shares.
    """

    longest: float

    def columns(self, rates: Array) -> Array:
        """Return the splines and the averaged rate behind each update, [steps, columns]; rates: [steps]."""
        knots = KNOTS * self.longest
        splines = [np.interp(np.cumsum(rates), knots, unit) for unit in np.eye(len(knots))[1:]]
        averaged = decaying_sum((1 - MOMENTUM) * rates, MOMENTUM) / (1 - MOMENTUM ** np.arange(1, len(rates) + 1))
        return np.stack([*splines, averaged / self.longest], axis=1)

    def fit(self, rates: Sequence[Array]) -> tuple[Array, Array]:
        """Return the columns of all steps of some runs, [rows, columns], and what solves for their weights."""
        rows = np.concatenate([self.columns(of_run) for of_run in rates])
        # Differences of neighbouring slopes, by knots behind the first, whose value is 0; the averaged rate has none.
        bends = np.diff(np.diff(np.eye(len(KNOTS)), axis=0) / np.diff(KNOTS)[:, None], axis=0)
        stiff = np.pad(bends[:, 1:], ((0, 0), (0, 1))) * np.sqrt(_STIFFNESS * len(rows))
        return rows, np.linalg.pinv(np.concatenate([rows, stiff]))[:, : len(rows)]


class TimeCurve:
    """The mean curve in optimiser time, whatever a run trains on."""

    start = 1

    def __init__(self) -> None:
        """Start without a curve."""
        self.time = _Time(0.0)
        self.extent = UNBOUNDED
        self.first = self.curves = np.empty(0)  # [tests]; [columns, tests]

    def fit_parts(self, parts: Sequence[Part], features: Features) -> None:
        """Fit splines to the fitting runs of all parts; there is nothing to choose.

        Raises:
            UserError: a part has no run to fit.
        """
        for dynamics, _ in parts:
            dynamics.check(validation=False)
        runs = list(_fitting(parts))
        self.extent = extent_of(*(dynamics for dynamics, _ in parts))
        self.time = _Time(max(curricula.rates[run].sum() for curricula, run, _ in runs))
        self.first = np.mean([values[0] for _, _, values in runs], axis=0)
        _, solve = self.time.fit([curricula.rates[run] for curricula, run, _ in runs])
        self.curves = solve @ np.concatenate([values[1:] - self.first for _, _, values in runs])

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Follow the curve after the given value; see `Simulator.simulate`."""
        moved = np.stack([self.first + self.time.columns(rates) @ self.curves for rates in curricula.rates])
        return confine(np.concatenate([first_values, moved], axis=1), 1, self.extent)

    def half_widths(self, curricula: Curricula) -> None:
        """Errors are not known."""


class _Runs(NamedTuple):
    """Fitting runs, one list entry each.

    Attributes:
        rates: [steps], learning rates.
        responses: [steps, tests, responses].
        values: [steps + 1, tests].
    """

    rates: list[Array]
    responses: list[Array]
    values: list[Array]

    def without(self, run: int) -> _Runs:
        return _Runs(*([item for i, item in enumerate(items) if i != run] for items in self))


class _Solved(NamedTuple):
    """What some runs say: curves of trajectories and of responses, and what is left of both for the weights.

    Attributes:
        first: [tests], mean value before the first update.
        curves: [columns, tests].
        centre: [columns, tests, responses].
        moments: of what is left, by task.
    """

    first: Array
    curves: Array
    centre: Array
    moments: list[Moments]

    @classmethod
    def of(cls, runs: _Runs, time: _Time, task: NDArray[np.int64]) -> Self:
        first = np.mean([values[0] for values in runs.values], axis=0)
        rows, solve = time.fit(runs.rates)
        x = np.concatenate(runs.responses)
        y = np.concatenate([values[1:] - first for values in runs.values])
        centre, curves = np.tensordot(solve, x, 1), solve @ y
        x -= np.tensordot(rows, centre, 1)
        y -= rows @ curves
        own = [task == number for number in range(int(task.max(initial=-1)) + 1)]
        return cls(first, curves, centre, [Moments.of(x[:, of_task], y[:, of_task]) for of_task in own])


class PooledResponse(Simulator):
    """The mean curve in optimiser time, plus weighted responses to gradients.

    Intervals come from the errors in each fitting run without it, as those of `GradientResponse` do: an error in units
    of what it is on average at its optimiser time and in its test. They do not grow with unseen examples.
    """

    kind = "pooled_response"

    def __init__(
        self,
        kernels: tuple[Kernel, ...],
        momenta: tuple[float, ...],
        decays: tuple[float, ...],
        strengths: tuple[float, ...],
        rates: Array,
    ) -> None:
        """Set the responses and the ridge strengths to choose from; see `GradientResponse`.

        Args:
            rates: [steps], the learning rates of the run along which the kernels were measured.
        """
        self.names, self.momenta, self.decays = tuple(kernels), tuple(momenta), tuple(decays)
        self.strengths, self.rates = tuple(strengths), np.asarray(rates, float)
        self.time = _Time(0.0)
        self.responses = Responses(Kernels.none(), self.momenta, self.decays)
        self.task: NDArray[np.int64] = np.empty(0, np.int64)  # [tests]
        self.usual = np.empty(0)  # [train], mean shares
        self.first = self.curves = np.empty(0)  # see `_Solved`
        self.centre = np.empty((0, 0, 0))
        self.chosen, self.weights = np.empty(0), np.empty((0, 0))  # [tasks]; [tasks, responses]
        self.of_times, self.of_tests = np.empty((0, 0)), np.empty(0)  # mean squares of errors, see `_leave_out`
        self.quantiles = np.empty((0, 0))  # [tasks, levels]

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit on runs of one schedule; see `fit_parts`."""
        self.fit_parts([Part(dynamics, curricula)], features)

    def fit_parts(self, parts: Sequence[Part], features: Features) -> None:
        """Fit every strength and keep, for each task, the one that is best on the validation runs of all parts.

        Raises:
            UserError: there are no kernels, or a part has no run to fit or to validate.
        """
        for dynamics, _ in parts:
            dynamics.check(validation=True)
        self.responses = Responses.make("gradient_response", features, self.names, self.momenta, self.decays)
        self.task = features.test_task
        fitting = list(_fitting(parts))
        shares = [self.responses.shares(curricula, run) for curricula, run, _ in fitting]
        rates = [curricula.rates[run] for curricula, run, _ in fitting]
        self.usual = np.mean([of_run.mean(axis=0) for of_run in shares], axis=0)
        self.time = _Time(max(of_run.sum() for of_run in rates))
        responses = [self._responses(*run) for run in zip(shares, rates, strict=True)]
        runs = _Runs(rates, responses, [values for _, _, values in fitting])
        solved = _Solved.of(runs, self.time, self.task)
        self.first, self.curves, self.centre = solved.first, solved.curves, solved.centre
        strengths = sorted(self.strengths, reverse=True)
        paths = np.array([ridge_path(moments, strengths) for moments in solved.moments])
        errors = np.zeros(paths.shape[:2])
        for dynamics, curricula in parts:
            checks = np.flatnonzero(dynamics.validate)
            for run in checks:
                rows = self.time.columns(curricula.rates[run])
                missed = self.first + rows @ self.curves - dynamics.values[run, 1:]
                found = self._responses(self.responses.shares(curricula, run), curricula.rates[run])
                found -= np.tensordot(rows, self.centre, 1)
                for task, path in enumerate(paths):
                    own = self.task == task
                    wrong = missed[:, own, None] + found[:, own] @ path.T
                    errors[task] += np.square(wrong).mean(axis=(0, 1)) / len(checks)
        best = errors.argmin(axis=1)  # the first of equals, which is the stronger
        self.chosen, self.weights = np.array(strengths)[best], paths[np.arange(len(paths)), best]
        self.extent = extent_of(*(dynamics for dynamics, _ in parts))
        self._leave_out(runs)

    def _leave_out(self, runs: _Runs) -> None:
        """Fit without each run in turn, and keep what the errors in it are; the usual shares stay those of all runs.

        Mean squares are a product of what they are near each knot of optimiser time, [tasks, knots], and in each test,
        [tests], as a single cell has few errors.
        """
        tasks = len(self.weights)
        self.of_times, self.of_tests = np.full((tasks, len(KNOTS)), np.nan), np.full(len(self.task), np.nan)
        self.quantiles = np.full((tasks, len(LEVELS)), np.nan)
        if len(runs.rates) < 2:
            return
        errors = []
        for number, (rates, responses, values) in enumerate(zip(*runs, strict=True)):
            solved = _Solved.of(runs.without(number), self.time, self.task)
            weights = np.array(
                [ridge_path(*pair)[0] for pair in zip(solved.moments, self.chosen[:, None], strict=True)]
            )
            rows = self.time.columns(rates)
            left = responses - np.tensordot(rows, solved.centre, 1)
            moved = rows @ solved.curves + np.einsum("tzk,zk->tz", left, weights[self.task])
            errors.append(values[1:] - solved.first - moved)
        whole = np.concatenate(errors)
        near = np.concatenate([self._near(rates) for rates in runs.rates])  # [rows, knots]
        for task in range(tasks):
            own = self.task == task
            squares = np.square(whole[:, own])
            seen = near.sum(axis=0) > 0
            of_times = near.T[seen] @ squares.mean(axis=1) / near.T[seen].sum(axis=1)
            self.of_times[task] = np.interp(KNOTS, KNOTS[seen], of_times)
            self.of_tests[own] = squares.mean(axis=0) / (squares.mean() or 1.0)
            spread = np.sqrt(np.outer(near @ self.of_times[task], self.of_tests[own]))
            sizes = np.divide(np.abs(whole[:, own]), spread, out=np.zeros_like(spread), where=spread > 0)
            self.quantiles[task] = np.quantile(sizes, LEVELS)

    def _near(self, rates: Array) -> Array:
        """Return how near each update's optimiser time is to each knot, [steps, knots]; rows add up to 1."""
        spent = np.cumsum(rates)
        return np.stack([np.interp(spent, KNOTS * self.time.longest, unit) for unit in np.eye(len(KNOTS))], axis=1)

    def half_widths(self, curricula: Curricula) -> Array | None:
        """Return half the widths of the intervals; see `Simulator.half_widths`."""
        if np.isnan(self.quantiles).any():
            return None
        return np.stack([self.widths(rates) for rates in curricula.rates], axis=1)

    def widths(self, rates: Array) -> Array | None:
        """Return half the widths of a run's intervals, [levels, steps + 1, tests]; see `half_widths`."""
        if np.isnan(self.quantiles).any():
            return None
        spread = np.sqrt(self._near(rates) @ self.of_times[self.task].T * self.of_tests)  # [steps, tests]
        return np.pad(self.quantiles[self.task].T[:, None] * spread, ((0, 0), (1, 0), (0, 0)))

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Add up curve and responses; see `Simulator.simulate`. The given value stands, and moves nothing after it."""
        shares = (self.responses.shares(curricula, run) for run in range(len(curricula.examples)))
        runs = zip(shares, curricula.rates, first_values, strict=True)
        return np.stack([self.follow(*run) for run in runs])

    def follow(self, shares: Array, rates: Array, first_values: Array) -> Array:
        """Return one run, [steps + 1, tests].

        Args:
            shares: of each example in each batch's loss, [steps, train].
            rates: [steps], learning rates.
            first_values: [1, tests].
        """
        rows = self.time.columns(rates)
        left = self._responses(shares, rates) - np.tensordot(rows, self.centre, 1)
        moved = self.first + rows @ self.curves + np.einsum("tzk,zk->tz", left, self.weights[self.task])
        return confine(np.concatenate([first_values, moved])[None], 1, self.extent)[0]

    def _responses(self, shares: Array, rates: Array) -> Array:
        """Return the responses to shares less the usual ones, [steps, tests, responses]; arguments: see `follow`."""
        # Updates before each checkpoint; one that the run never comes to stands behind its last.
        reached = np.searchsorted(_before(rates), _before(self.rates)[self.responses.kernels.steps] * (1 - 1e-9))
        there = self.responses._replace(kernels=replace(self.responses.kernels, steps=reached))
        shares = shares - self.usual
        pace = np.power.outer(self.decays, rates / self.rates.mean())  # [decays, steps]
        found = [there.of(shares, rates)]
        for moves in there.moves(shares, rates):
            kept = np.zeros((len(moves), moves.shape[1], len(pace)))
            now = np.zeros(kept.shape[1:])
            for t, move in enumerate(moves):
                now = pace[:, t] * now - move[:, None]
                kept[t] = now
            found.append(kept[:, :, np.array(self.decays) < 1])  # without forgetting both are the same
        return np.concatenate(found, axis=2)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return weights ([tasks, responses]), curves, what intervals need, and kernels."""
        arrays = {name: getattr(self, name) for name in _ARRAYS} | self.responses.arrays()
        arrays["longest"] = np.array([self.time.longest])
        settings = {"kernels": self.names, "momenta": self.momenta, "decays": self.decays, "strengths": self.strengths}
        chosen = {f"strength of task {i + 1}": strength for i, strength in enumerate(self.chosen)}
        return arrays, {"settings": settings, "chosen": chosen}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"], rates=arrays["rates"])
        for name in _ARRAYS:
            setattr(simulator, name, arrays[name])
        simulator.time = _Time(float(arrays["longest"][0]))
        simulator.responses = Responses.from_arrays(arrays, simulator.names, simulator.momenta, simulator.decays)
        return simulator


_ARRAYS = (
    *("rates", "task", "usual", "first", "curves", "centre", "chosen", "weights", "extent"),
    *("of_times", "of_tests", "quantiles"),
)


def _before(rates: Array) -> Array:
    """Return the optimiser time before each update, [steps]."""
    return np.cumsum(rates) - rates


def _fitting(parts: Sequence[Part]) -> Iterator[tuple[Curricula, int, Array]]:
    """Yield curricula, number and values ([steps + 1, tests]) of each run that serves to fit."""
    for dynamics, curricula in parts:
        for run in np.flatnonzero(~dynamics.validate):
            yield curricula, run, dynamics.values[run]
