"""Gradient response: the mean curve, and how a curriculum's gradients move a trajectory away from it.

With a_t(z) the mean of m_t(z) over the fitting runs, c_t the batch's shares (of the loss: by target tokens) less their
mean over the fitting runs at step t, K_t a gradient kernel at the checkpoint before t, eta_t the learning rate:

    m_t(z) = a_t(z) + sum_k w_k(task of z) r_kt(z)
    r_kt = decay_k r_k,t-1 - eta_t u_kt' K_kt(., z)
    u_kt = (1 - momentum_k) sum_{s <= t} momentum_k^(t-s) c_s / (1 - momentum_k^t)

A response r_k is a roll-out with nothing fitted in it: what the optimiser's momentum makes of the batches' gradients
(as Adam's first moment, corrected for its start), added up, and forgotten at a rate. One response of momentum 0 and
decay 1 is TracIn, less its mean. Why more than one: later steps undo part of what a batch did, the faster the larger
its gradient, and AdamW divides by a history that the kernel only expects. Weights w_k, one a task and response, are all
that is fitted: by ridge regression of whole trajectories, so the error of the roll-out is what is least, and nothing
can explode, since trajectories are sums of responses.

Training examples need not have been seen: a kernel is all that is known of them.

Intervals come from the errors that are made in each fitting run without it: the quantile, over all cells, of an error
in units of what its step and test have on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Kernels, Simulator
from gptfluence.simulators.rollout import repeat_curve
from gptfluence.words import LEVELS

Kernel = Literal["sgd", "adamw"]

_ROUNDING = 1e-11  # relative; differences below it are none


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
        self.chosen: list[float] = []  # [tasks]
        self.kernels = Kernels.none()
        self.task: NDArray[np.int64] = np.empty(0, np.int64)  # [tests]
        self.curve = self.shares = self.weights = self.spread = self.quantiles = np.empty((0, 0))
        self.metrics, self.reach, self.rows = np.empty((0, 0, 0)), np.empty(0), np.empty(0)

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit every strength and keep, for each task, the one that is best on the validation runs (ties: the stronger).

        Raises:
            UserError: there are no kernels.
        """
        if features.kernels is None:
            raise UserError("gradient_response: there are no gradient kernels; the job names none")
        self.kernels = features.kernels.only(self.names)
        self.task = features.test_task
        fitting = ~dynamics.validate
        self.curve = dynamics.values[fitting].mean(axis=0)
        self.shares = np.mean([self._shares(curricula, run) for run in np.flatnonzero(fitting)], axis=0)
        moments = [_Moments.none(self._columns()) for _ in range(self._tasks())]
        for task, x, y in self._parts(dynamics, curricula, fitting):
            moments[task] = moments[task].plus(_Moments.of(x, y))
        strengths = sorted(self.strengths, reverse=True)
        paths = [_ridge_path(sums, strengths) for sums in moments]
        errors = np.zeros((len(moments), len(strengths)))
        for task, x, y in self._parts(dynamics, curricula, ~fitting):
            errors[task] += np.square(x @ paths[task].T - y[..., None]).sum(axis=(0, 1))
        best = errors.argmin(axis=1)  # the first of equals, which is the stronger
        self.chosen = [strengths[i] for i in best]
        self.weights = np.array([path[i] for path, i in zip(paths, best, strict=True)])
        self._fit_intervals(dynamics, curricula, fitting, moments)

    def _fit_intervals(
        self, dynamics: Dynamics, curricula: Curricula, fitting: NDArray[np.bool_], moments: list[_Moments]
    ) -> None:
        """Measure the errors in each fitting run of the simulator that is fitted without it.

        Without run r of R, curve and mean shares are those of the others, from which r is R / (R - 1) times as far as
        from the mean of all; the sums of squares lack as much of r. So no run is read again but for its residuals.
        """
        runs, steps = int(fitting.sum()), len(self.curve) - 1
        self.spread = np.full((steps, len(self.task)), np.nan)
        self.quantiles = np.full((len(moments), len(LEVELS)), np.nan)
        self.metrics = np.array([_metric(sums, strength) for sums, strength in zip(moments, self.chosen, strict=True)])
        self.rows = np.array([sums.rows for sums in moments])
        self.reach = np.zeros(len(moments))
        if runs < 2:
            return
        far = runs / (runs - 1)
        errors: list[list[Array]] = [[] for _ in moments]
        for task, x, y in self._parts(dynamics, curricula, fitting):
            others = moments[task].without(_Moments.of(x, y), far)
            (weights,) = _ridge_path(others, [self.chosen[task]])
            errors[task].append(far * (y - x @ weights))
            self.reach[task] = max(self.reach[task], _distance(far * x, _metric(others, self.chosen[task])))
        for task, found in enumerate(errors):
            squares = np.square(found)
            # A product of what steps and what tests have, as a cell alone has but one error a run.
            of_steps, of_tests = squares.mean(axis=(0, 2)), squares.mean(axis=(0, 1))
            spread = np.sqrt(np.outer(of_steps, of_tests) / (squares.mean() or 1.0))
            self.spread[:, self.task == task] = spread
            sizes = np.divide(np.abs(found), spread, out=np.zeros_like(squares), where=spread > 0)
            self.quantiles[task] = np.quantile(sizes, LEVELS)

    def distances(self, curricula: Curricula) -> Array | None:
        """Return how far curricula are from the fitted ones; see `Simulator.distances`.

        The distance of a run is the leverage of its responses, x' (X'X / n + ridge)^-1 x, root of the mean over its
        steps and tests; what is given is the largest of the tasks', over that of the fitting runs, each without itself.
        """
        if np.isnan(self.spread).any():
            return None
        found = np.zeros(len(curricula.examples))
        for run in range(len(found)):
            responses = self._responses(curricula, run)
            for task, (metric, reach) in enumerate(zip(self.metrics, self.reach, strict=True)):
                distance = _distance(responses[:, self.task == task], metric)
                found[run] = max(found[run], distance / reach if reach else float(distance > 0))
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
                rows = responses[:, self.task == task].reshape(-1, self._columns())
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

    def half_widths(self, curricula: Curricula) -> Array | None:
        """Return half the widths of the intervals; see `Simulator.half_widths`."""
        runs = len(curricula.examples)
        if np.isnan(self.spread).any():
            return None
        widths = self.quantiles[self.task].T[:, None] * self.spread
        widths = np.concatenate([np.zeros((len(LEVELS), 1, len(self.task))), widths], axis=1)
        return np.repeat(widths[:, None], runs, axis=1)

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Add up the responses; see `Simulator.simulate`. The given value stands, and moves nothing after it.

        Raises:
            UserError: the runs have another number of steps than the fitting runs.
        """
        values = repeat_curve("gradient_response", self.curve, curricula)
        for run in range(len(values)):
            values[run, 1:] += np.einsum("tzk,zk->tz", self._responses(curricula, run), self.weights[self.task])
        values[:, :1] = first_values
        return values

    def _columns(self) -> int:
        return len(self.names) * len(self.momenta) * len(self.decays)

    def _tasks(self) -> int:
        return int(self.task.max(initial=-1)) + 1

    def _parts(
        self, dynamics: Dynamics, curricula: Curricula, runs: NDArray[np.bool_]
    ) -> Iterator[tuple[int, Array, Array]]:
        """Yield, of each run and task, the task, responses [steps, its tests, responses] and deviations [steps, tests].

        One run at a time is in memory.
        """
        for run in np.flatnonzero(runs):
            responses = self._responses(curricula, run)
            deviations = dynamics.values[run, 1:] - self.curve[1:]
            for task in range(self._tasks()):
                yield task, responses[:, self.task == task], deviations[:, self.task == task]

    def _shares(self, curricula: Curricula, run: int) -> Array:
        """Return each example's share of each batch's loss, [steps, train]."""
        examples = curricula.examples[run]
        tokens = self.kernels.tokens[examples].astype(float)
        shares = np.zeros((len(examples), len(self.kernels.tokens)))
        np.add.at(shares, (np.arange(len(examples))[:, None], examples), tokens / tokens.sum(axis=1, keepdims=True))
        return shares

    def _responses(self, curricula: Curricula, run: int) -> Array:
        """Return r_kt(z), [steps, tests, responses]."""
        shares, rates = self._shares(curricula, run) - self.shares, curricula.rates[run]
        shares[np.abs(shares) < _ROUNDING] = 0.0  # where all runs have the same
        steps = len(shares)
        found = np.empty((steps, len(self.task), self._columns()))
        column = 0
        for momentum in self.momenta:
            averages = lfilter([1 - momentum], [1, -momentum], shares, axis=0)
            averages *= (rates / (1 - momentum ** np.arange(1, steps + 1)))[:, None]
            for name in self.names:
                moves = np.empty((steps, len(self.task)))
                for start, stop, kernel in self.kernels.spans(name, steps):
                    moves[start:stop] = averages[start:stop] @ kernel
                for decay in self.decays:
                    found[:, :, column] = lfilter([-1.0], [1, -decay], moves, axis=0)
                    column += 1
        return found

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return curve ([steps + 1, tests]), mean shares ([steps, train]), weights ([tasks, responses]), kernels."""
        settings = {
            "kernels": list(self.names),
            "momenta": list(self.momenta),
            "decays": list(self.decays),
            "strengths": list(self.strengths),
        }
        arrays = {"curve": self.curve, "shares": self.shares, "weights": self.weights, "task": self.task}
        arrays |= {"spread": self.spread, "quantiles": self.quantiles, "metrics": self.metrics, "reach": self.reach}
        arrays["rows"] = self.rows
        arrays |= {"checkpoints": self.kernels.steps, "tokens": self.kernels.tokens, **self.kernels.values}
        chosen = {f"strength of task {i + 1}": strength for i, strength in enumerate(self.chosen)}
        return arrays, {"settings": settings, "chosen": chosen}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        kernels = {name: arrays[name] for name in simulator.names}
        simulator.kernels = Kernels(arrays["checkpoints"], arrays["tokens"], kernels)
        simulator.curve, simulator.shares = arrays["curve"], arrays["shares"]
        simulator.weights, simulator.task = arrays["weights"], arrays["task"]
        simulator.spread, simulator.quantiles = arrays["spread"], arrays["quantiles"]
        simulator.metrics, simulator.reach, simulator.rows = (arrays[name] for name in ("metrics", "reach", "rows"))
        simulator.chosen = list(values["chosen"].values())
        return simulator


class _Moments(NamedTuple):
    """Sums over rows of what least squares needs.

    Attributes:
        gram: X'X, [columns, columns].
        right: X'y, [columns].
        square: y'y.
        rows: how many.
    """

    gram: Array
    right: Array
    square: float
    rows: float

    @classmethod
    def none(cls, columns: int) -> _Moments:
        return cls(np.zeros((columns, columns)), np.zeros(columns), 0.0, 0.0)

    @classmethod
    def of(cls, x: Array, y: Array) -> _Moments:
        """Sum over a run; x: [steps, tests, columns], y: [steps, tests]."""
        rows = x.reshape(-1, x.shape[-1])
        return cls(rows.T @ rows, rows.T @ y.ravel(), float(np.vdot(y, y)), float(y.size))

    def plus(self, other: _Moments) -> _Moments:
        """Add another's sums."""
        return _Moments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def without(self, other: _Moments, times: float) -> _Moments:
        """Take away another's sums, some times, and its rows, once; what then is rounding is zero."""
        gram, square = self.gram - times * other.gram, self.square - times * other.square
        kept = np.diag(gram) > _ROUNDING * np.diag(self.gram)
        return _Moments(
            np.where(np.outer(kept, kept), gram, 0.0),
            np.where(kept, self.right - times * other.right, 0.0),
            square if square > _ROUNDING * self.square else 0.0,
            self.rows - other.rows,
        )


def _ridge_path(sums: _Moments, strengths: list[float]) -> Array:
    """Return the ridge solution of each strength, [strengths, columns], from one decomposition.

    Args:
        sums: over the rows.
        strengths: for columns and y scaled to mean square 1; a column of zeros gets no weight.
    """
    rows = max(sums.rows, 1.0)
    gram, scale, used = _standardised(sums)
    height = np.sqrt(sums.square / rows) or 1.0
    values, vectors = np.linalg.eigh(gram)
    rotated = vectors.T @ (np.where(used, sums.right, 0.0) / scale / height / rows)
    solved = rotated / (np.maximum(values, 0.0) + np.array(strengths)[:, None])
    return solved @ vectors.T * height / scale


def _standardised(sums: _Moments) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return X'X / n of columns of mean square 1, their scales, and which of them say anything."""
    rows, diagonal = max(sums.rows, 1.0), np.diag(sums.gram)
    used = diagonal > 0
    scale = np.sqrt(np.where(used, diagonal, rows) / rows)
    return np.where(np.outer(used, used), sums.gram, 0.0) / np.outer(scale, scale) / rows, scale, used


def _metric(sums: _Moments, strength: float) -> Array:
    """Return (X'X / n + ridge)^-1, [columns, columns]."""
    gram, scale, _ = _standardised(sums)
    return np.linalg.inv(gram + strength * np.eye(len(gram))) / np.outer(scale, scale)


def _distance(x: Array, metric: Array) -> float:
    """Return the root of the mean leverage of rows; x: [steps, tests, columns]."""
    return float(np.sqrt(max(np.einsum("tzi,ij,tzj->tz", x, metric, x, optimize=True).mean(), 0.0)))
