"""The predicted curve: what the mean curve of a test would be that no run has measured.

With b_t the mean, over a task's measured tests, of what the mean curve has moved since its first value:

    a_t(z) = m_0(z) + b_t(task of z) + sum_k v_k(task of z) (x_kt(z) - mean of x_kt over the task's measured tests)

x_kt(z) is what is known of z before any run: its responses (see `responses`) to the mean shares of the fitting runs,
that is to a curriculum that trains on a bit of everything, and its first value, fading in with the learning rates that
were spent. Tests differ in their curves as their gradients do. Weights are ridge solutions; their strength is the one
with which curves of measured tests, each predicted without that test, come nearest the validation runs.

This is the best that is known of a test without its runs, and so what `skill` is over there.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.responses import Kernel, Responses
from gptfluence.simulators.ridge import Moments, ridge_path
from gptfluence.simulators.rollout import confine, extent_of, repeat_curve


class PredictedCurve(Simulator):
    """The mean curve of measured tests, a predicted one of others."""

    kind = "predicted_curve"

    def __init__(
        self,
        kernels: tuple[Kernel, ...],
        momenta: tuple[float, ...],
        decays: tuple[float, ...],
        strengths: tuple[float, ...],
    ) -> None:
        """Set the responses and the ridge strengths to choose from; see `GradientResponse`."""
        self.names, self.momenta, self.decays = tuple(kernels), tuple(momenta), tuple(decays)
        self.strengths = tuple(strengths)
        self.chosen = np.empty(0)  # [tasks], strengths
        self.curve = self.shares = self.rates = np.empty(0)
        self.drift = self.centre = self.weights = self.left_out = np.empty(0)

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Average the fitting runs; fit what tells the curves of a task's tests apart.

        Raises:
            UserError: there are no kernels.
        """
        dynamics.check(validation=True)
        responses = Responses.make(self.kind, features, self.names, self.momenta, self.decays)
        self.extent = extent_of(dynamics)
        fitting = ~dynamics.validate
        self.curve = dynamics.values[fitting].mean(axis=0)
        self.shares, self.rates = responses.mean_shares(curricula, fitting), curricula.rates[fitting].mean(axis=0)
        known, drift = self._known(responses, self.curve[0]), self.curve[1:] - self.curve[0]
        checks = dynamics.values[~fitting]
        checks = (checks[:, 1:] - checks[:, :1]).mean(axis=0)
        tasks = [features.test_task == task for task in range(features.tasks)]
        parts = [_fit_task(known[:, own], drift[:, own], checks[:, own], self.strengths) for own in tasks]
        *fitted, left_out = zip(*parts, strict=True)
        self.drift, self.centre, self.weights, self.chosen = map(np.array, fitted)
        self.left_out = np.empty_like(drift)
        for own, errors in zip(tasks, left_out, strict=True):
            self.left_out[:, own] = errors

    def _known(self, responses: Responses, first: Array) -> Array:
        """Return x_kt(z), [steps, tests, columns]; first: [tests]."""
        spent = np.cumsum(self.rates) / self.rates.sum()
        return np.concatenate(
            [responses.of(self.shares, self.rates), np.multiply.outer(spent, first)[..., None]], axis=2
        )

    def transfer(self, features: Features, first_values: Array) -> Self:
        """Predict the curves of other tests; see `Simulator.transfer`."""
        responses = Responses.make(self.kind, features, self.names, self.momenta, self.decays)
        task = features.test_task
        apart = self._known(responses, first_values) - self.centre[task].swapaxes(0, 1)
        moved = self.drift[task].T + np.einsum("tzk,zk->tz", apart, self.weights[task])
        other = copy(self)
        other.curve = np.concatenate([first_values[None], first_values + moved])
        return other

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Repeat the curve after the given value; see `Simulator.simulate`.

        Raises:
            UserError: the runs have another number of steps than the fitting runs.
        """
        values = repeat_curve(self.kind, self.curve, curricula)
        values[:, :1] = first_values
        return confine(values, 1, self.extent)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return curve ([steps + 1, tests]), drift ([tasks, steps]), centre ([tasks, steps, columns]), weights ([tasks,
        columns]), errors in measured tests left out ([steps, tests]), the extent, and of the fitting runs mean shares
        ([steps, train]) and rates.
        """
        settings = {
            "kernels": list(self.names),
            "momenta": list(self.momenta),
            "decays": list(self.decays),
            "strengths": list(self.strengths),
        }
        chosen = {f"strength of curves of task {i + 1}": strength for i, strength in enumerate(self.chosen)}
        return {name: getattr(self, name) for name in _ARRAYS}, {"settings": settings, "chosen": chosen}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        for name in _ARRAYS:
            setattr(simulator, name, arrays[name])
        return simulator


_ARRAYS = ("chosen", "curve", "drift", "centre", "weights", "left_out", "shares", "rates", "extent")


def _fit_task(
    known: Array, drift: Array, checks: Array, strengths: tuple[float, ...]
) -> tuple[Array, Array, Array, float, Array]:
    """Fit one task's curves.

    Args:
        known: [steps, tests, columns].
        drift: [steps, tests], of the fitting runs' mean.
        checks: the same of the validation runs.
        strengths: to choose from.

    Returns:
        The means over tests of drift ([steps]) and known ([steps, columns]), weights ([columns]), the strength, and by
        how much each test is above what it is predicted without it ([steps, tests], NaN if there is but one).
    """
    path = sorted(strengths, reverse=True)
    mean, centre = drift.mean(axis=1), known.mean(axis=1)
    x, y = known - centre[:, None], drift - mean[:, None]
    moments = Moments.of(x, y)
    tests = drift.shape[1]
    if tests < 2:  # nothing tells tests apart
        return mean, centre, np.zeros(known.shape[2]), path[0], np.full_like(drift, np.nan)
    far = tests / (tests - 1)  # from the mean of the others, in units of what it is from the mean of all
    errors = np.zeros((len(path), *drift.shape))
    for test in range(tests):
        of_test = x[:, [test]], y[:, [test]]
        weights = ridge_path(moments.without(Moments.of(*of_test), far), path)
        errors[:, :, test] = far * (y[:, test] - weights @ x[:, test].T)
    best = int(np.square(errors + checks - drift).sum(axis=(1, 2)).argmin())  # the first of equals: the stronger
    return mean, centre, ridge_path(moments, path)[best], path[best], errors[best]
