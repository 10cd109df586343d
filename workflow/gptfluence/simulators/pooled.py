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
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import UNBOUNDED, Array, Curricula, Features, Kernels, Part
from gptfluence.simulators.responses import Kernel, Responses, decaying_sum
from gptfluence.simulators.ridge import Moments, ridge_path
from gptfluence.simulators.rollout import confine, extent_of

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
        moved = np.stack([self._moved(curricula, run) for run in range(len(curricula.examples))])
        return confine(np.concatenate([first_values, self.first + moved], axis=1), 1, self.extent)

    def _moved(self, curricula: Curricula, run: int) -> Array:
        """Return what a run has moved behind each update, [steps, tests]."""
        return self.time.columns(curricula.rates[run]) @ self.curves

    def half_widths(self, curricula: Curricula) -> None:
        """Errors are not known."""


class PooledResponse(TimeCurve):
    """The mean curve in optimiser time, plus weighted responses to gradients."""

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
        super().__init__()
        self.names, self.momenta, self.decays = tuple(kernels), tuple(momenta), tuple(decays)
        self.strengths, self.rates = tuple(strengths), rates
        self.responses = Responses(Kernels.none(), self.momenta, self.decays)
        self.task: NDArray[np.int64] = np.empty(0, np.int64)  # [tests]
        self.usual = np.empty(0)  # [train], mean shares
        self.centre = np.empty((0, 0, 0))  # [columns, tests, responses]
        self.chosen, self.weights = np.empty(0), np.empty((0, 0))  # [tasks]; [tasks, responses]

    def fit_parts(self, parts: Sequence[Part], features: Features) -> None:
        """Fit every strength and keep, for each task, the one that is best on the validation runs of all parts.

        Raises:
            UserError: there are no kernels, or a part has no run to fit or to validate.
        """
        for dynamics, _ in parts:
            dynamics.check(validation=True)
        super().fit_parts(parts, features)
        self.responses = Responses.make("gradient_response", features, self.names, self.momenta, self.decays)
        self.task = features.test_task
        runs = list(_fitting(parts))
        self.usual = np.mean([self.responses.shares(curricula, run).mean(axis=0) for curricula, run, _ in runs], axis=0)
        rows, solve = self.time.fit([curricula.rates[run] for curricula, run, _ in runs])
        x = np.concatenate([self._responses(curricula, run) for curricula, run, _ in runs])
        self.centre = np.tensordot(solve, x, 1)
        x -= np.tensordot(rows, self.centre, 1)
        y = np.concatenate([values[1:] - self.first for _, _, values in runs]) - rows @ self.curves
        strengths = sorted(self.strengths, reverse=True)
        tasks = [self.task == task for task in range(features.tasks)]
        paths = np.array([ridge_path(Moments.of(x[:, own], y[:, own]), strengths) for own in tasks])
        errors = np.zeros(paths.shape[:2])
        for dynamics, curricula in parts:
            checks = np.flatnonzero(dynamics.validate)
            for run in checks:
                missed = self.first + self._moved_alone(curricula, run) - dynamics.values[run, 1:]
                found = self._centred(curricula, run)
                for task, own in enumerate(tasks):
                    wrong = missed[:, own, None] + found[:, own] @ paths[task].T
                    errors[task] += np.square(wrong).mean(axis=(0, 1)) / len(checks)
        best = errors.argmin(axis=1)  # the first of equals, which is the stronger
        self.chosen, self.weights = np.array(strengths)[best], paths[np.arange(len(paths)), best]

    def _moved(self, curricula: Curricula, run: int) -> Array:
        own = np.einsum("tzk,zk->tz", self._centred(curricula, run), self.weights[self.task])
        return self._moved_alone(curricula, run) + own

    def _moved_alone(self, curricula: Curricula, run: int) -> Array:
        return super()._moved(curricula, run)

    def _centred(self, curricula: Curricula, run: int) -> Array:
        """Return the responses less their curves, [steps, tests, responses]."""
        columns = self.time.columns(curricula.rates[run])
        return self._responses(curricula, run) - np.tensordot(columns, self.centre, 1)

    def _responses(self, curricula: Curricula, run: int) -> Array:
        """Return the responses to the shares less the usual ones, [steps, tests, responses]."""
        rates = curricula.rates[run]
        # Updates before each checkpoint; one that the run never comes to stands behind its last.
        reached = np.searchsorted(_before(rates), _before(self.rates)[self.responses.kernels.steps] * (1 - 1e-9))
        there = self.responses._replace(kernels=replace(self.responses.kernels, steps=reached))
        shares = self.responses.shares(curricula, run) - self.usual
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


def _before(rates: Array) -> Array:
    """Return the optimiser time before each update, [steps]."""
    return np.cumsum(rates) - rates


def _fitting(parts: Sequence[Part]) -> Iterator[tuple[Curricula, int, Array]]:
    """Yield curricula, number and values ([steps + 1, tests]) of each run that serves to fit."""
    for dynamics, curricula in parts:
        for run in np.flatnonzero(~dynamics.validate):
            yield curricula, run, dynamics.values[run]
