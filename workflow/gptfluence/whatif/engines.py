"""Trajectories of many curricula that differ little, for every kind of simulator.

A simulator reads rectangular batches. What it makes of them depends on the shares that examples have in their batches
alone, so here a run is a matrix of shares, [steps, train], and batches may be of any size. Of a `Run` what depends on
its shares is computed once; of others that have other shares in a few steps only the difference is:

- recurrences (`Simfluence`, `Bilinear`, `Mlp`): the coefficients of changed steps; the roll-out goes over all steps.
- gradient response: the response to a share in step s is known for every later step t beforehand, so a changed run
  costs one product of matrices of k times checkpoints times kernels rows, for k changed steps. How much of it is
  believed is a quotient of quadratic forms, and these are updated likewise.

Both are exact: nothing is linearised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptfluence.baselines.trivial import GlobalAr1, MeanCurve, Persistence
from gptfluence.errors import UserError
from gptfluence.simulators.additive import Additive
from gptfluence.simulators.base import Array, Curricula, Simulator
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.each_task import EachTask
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.interval import Interval
from gptfluence.simulators.mlp import Mlp
from gptfluence.simulators.pooled import PooledResponse
from gptfluence.simulators.predicted_curve import PredictedCurve
from gptfluence.simulators.responses import decaying_sum
from gptfluence.simulators.rollout import bounds, confine, repeat_curve, roll_out
from gptfluence.simulators.simfluence import Simfluence

TOGETHER = 32
"""Changed runs that are rolled out at once: their coefficients stay in the processor's caches."""
STRETCH = 75
"""Steps that are computed at once: fewer leave out more products with 0, more are faster."""
MOST_PAIRS = 5000**2
"""Products of responses that are kept, 8 bytes each; of longer runs each change is computed anew."""


@dataclass(frozen=True)
class Change:
    """Other batches in some steps of a run.

    Attributes:
        steps: [changed], from 0.
        shares: [changed, train], of these steps.
    """

    steps: NDArray[np.int64]
    shares: Array


class Engine(ABC):
    """Computes what one simulator says."""

    knows_rates = False
    """Whether learning rates change anything."""

    tokens: NDArray[np.int64] | None = None
    """[train], by which examples share a batch; None: all alike."""
    adds_up = False
    """Whether each occurrence of an example counts 1, however large its batch is."""

    def shares(self, batches: Sequence[NDArray[np.int64]], train: int) -> Array:
        """Return the shares of `train` examples in batches of any size, given by their numbers: [batches, train]."""
        found = np.zeros((len(batches), train))
        rows = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
        examples = np.concatenate([np.empty(0, np.int64), *batches])
        np.add.at(found, (rows, examples), 1.0 if self.tokens is None else self.tokens[examples])
        sums = 1.0 if self.adds_up else found.sum(axis=1, keepdims=True)
        return np.divide(found, sums, out=found, where=found > 0)

    @abstractmethod
    def run(self, shares: Array, rates: Array, first: Array) -> Run:
        """Return a run.

        Args:
            shares: [steps, train].
            rates: [steps].
            first: [start, tests], values that are given.

        Raises:
            UserError: the simulator cannot simulate as many steps.
        """

    def distance(self, shares: Array, rates: Array) -> float | None:
        """Return how far a run is from the fitted ones; see `Simulator.distances`."""
        return None

    def half_widths(self, shares: Array, rates: Array) -> Array | None:
        """Return half the widths of a run's intervals, [levels, steps + 1, tests]; see `Simulator.half_widths`."""
        return None


class Run(ABC):
    """A simulated run, [steps + 1, tests] in `values`, and those near it."""

    values: Array

    @abstractmethod
    def changed(self, changes: Sequence[Change]) -> Array:
        """Return the values of the run with each of some changes, [changes, steps + 1, tests]."""


def make_engine(simulator: Simulator) -> Engine:
    """Return what computes a simulator's answers."""
    match simulator:
        case GradientResponse():
            return _ResponseEngine(simulator)
        case Simfluence() | Bilinear() | Mlp():
            return _RecurrenceEngine(simulator)
        case PooledResponse():
            return _PooledEngine(simulator)
        case Additive():
            return _AdditiveEngine(simulator)
        case Interval():
            return _IntervalEngine(simulator)
        case EachTask():
            return _EachTaskEngine(simulator)
        case Persistence() | GlobalAr1() | MeanCurve() | PredictedCurve():
            return _SameEngine(simulator)
    raise UserError(f"simulators of kind {type(simulator).__name__} answer no such questions")


class _Anew(Run):
    """A run whose changes are computed from the start."""

    def __init__(self, engine: _AnewEngine, shares: Array, rates: Array, first: Array) -> None:
        self._engine, self._shares, self._rates, self._first = engine, shares, rates, first
        self.values = engine.roll_out(shares, rates, first)

    def changed(self, changes: Sequence[Change]) -> Array:
        found = np.empty((len(changes), *self.values.shape))
        for values, change in zip(found, changes, strict=True):
            shares = self._shares.copy()
            shares[change.steps] = change.shares
            values[:] = self._engine.roll_out(shares, self._rates, self._first)
        return found


class _AnewEngine(Engine):
    @abstractmethod
    def roll_out(self, shares: Array, rates: Array, first: Array) -> Array:
        """Return [steps + 1, tests]."""

    def run(self, shares: Array, rates: Array, first: Array) -> Run:
        return _Anew(self, shares, rates, first)


# --------------------------------------------------------------------------------------------------- recurrences


class _RecurrenceEngine(Engine):
    """m_t = sum_j (prior_j + shares_t A_j) m_{t-j} + shares_t B."""

    def __init__(self, simulator: Simfluence | Bilinear | Mlp) -> None:
        self.extent, self.adds_up = simulator.extent, simulator.aggregation == "sum"
        match simulator:
            case Simfluence():
                known = next(iter(simulator.factors.values()))
                factors = [simulator.factors.get(name, np.zeros_like(known)) for name in ("A", "B")]
                prior = simulator.prior
            case Bilinear():
                factors = [simulator.train @ matrix @ simulator.test.T for matrix in simulator.matrices]
                prior = 1.0 if simulator.shrink_to == "persistence" else 0.0
            case Mlp():
                factors, prior = list(simulator.factors()), simulator.prior
        self.factors = np.stack(factors)  # [order + 1, train, tests]
        self.prior = prior

    def coefficients(self, shares: Array) -> Array:
        """Return alpha of every order and beta, [order + 1, steps, tests]."""
        found = shares @ self.factors
        found[0] += self.prior
        return found

    def run(self, shares: Array, rates: Array, first: Array) -> Run:
        return _Recurrence(self, self.coefficients(shares), first)


class _Recurrence(Run):
    def __init__(self, engine: _RecurrenceEngine, coefficients: Array, first: Array) -> None:
        self._engine, self._coefficients, self._first = engine, coefficients, first
        self.values = self._roll_out(coefficients[:, None])[0]

    def _roll_out(self, coefficients: Array) -> Array:
        """Return [runs, steps + 1, tests]; coefficients: [order + 1, runs, steps, tests]."""
        first = np.repeat(self._first[None], coefficients.shape[1], axis=0)
        return roll_out(coefficients[:-1], coefficients[-1], first, self._engine.extent)

    def changed(self, changes: Sequence[Change]) -> Array:
        found = np.empty((len(changes), *self.values.shape))
        for start in range(0, len(changes), TOGETHER):
            some = changes[start : start + TOGETHER]
            coefficients = np.repeat(self._coefficients[:, None], len(some), axis=1)
            for i, change in enumerate(some):
                coefficients[:, i, change.steps] = self._engine.coefficients(change.shares)
            found[start : start + len(some)] = self._roll_out(coefficients)
        return found


# ---------------------------------------------------------------------------------------------- gradient response


class _ResponseEngine(Engine):
    knows_rates = True

    def __init__(self, simulator: GradientResponse) -> None:
        self.simulator = simulator
        self.tokens = simulator.responses.kernels.tokens
        self._known: tuple[bytes, _ShareResponses] | None = None

    def share_responses(self, rates: Array) -> _ShareResponses:
        """Return the responses to shares under a schedule; the last one is kept."""
        if self._known is None or self._known[0] != rates.tobytes():
            self._known = rates.tobytes(), _ShareResponses(self.simulator, rates)
        return self._known[1]

    def responses(self, shares: Array, rates: Array) -> Array:
        """Return [steps, tests, columns]."""
        return self.simulator.responses.of(shares - self.simulator.known.shares, rates)

    def run(self, shares: Array, rates: Array, first: Array) -> Run:
        curve = self.simulator.known.curve
        nothing = Curricula(np.zeros((1, len(shares), 0), np.int64), rates[None])
        values = repeat_curve(self.simulator.kind, curve, nothing)[0]  # which says if the steps are too many or few
        return _Response(self, values, shares, rates, first)

    def distance(self, shares: Array, rates: Array) -> float | None:
        return self.simulator.distance(self.responses(shares, rates))

    def half_widths(self, shares: Array, rates: Array) -> Array | None:
        widths = self.simulator.widths(shares[None], rates[None])
        return None if widths is None else widths[:, 0]


class _Response(Run):
    """Of each task: p, what is predicted [steps, tests], of which belief(q, v) is believed, with q = |p|^2 and v the
    variance of p over the replicas of the weights."""

    def __init__(self, engine: _ResponseEngine, curve: Array, shares: Array, rates: Array, first: Array) -> None:
        self._engine, self._curve, self._shares, self._rates, self._first = engine, curve, shares, rates, first
        simulator = engine.simulator
        self._tests = [_as_slice(np.flatnonzero(simulator.task == task)) for task in range(len(simulator.weights))]
        self._bounds = bounds(simulator.extent, first[None])
        responses = engine.responses(shares, rates)
        self._predicted, self._apart, self._variances = [], [], []
        for task, tests in enumerate(self._tests):
            of_task = responses[:, tests]
            self._predicted.append(of_task @ simulator.weights[task])
            apart = (of_task @ simulator.deviations(task).T).transpose(2, 0, 1)  # [replicas, steps, tests]
            self._apart.append(apart)
            self._variances.append(float(np.vdot(apart, apart)))
        self.values = np.empty_like(curve)
        for task, (p, variance) in enumerate(zip(self._predicted, self._variances, strict=True)):
            self._put(self.values, task, p.copy(), variance)
        self._finish(self.values)

    def _put(self, values: Array, task: int, predicted: Array, variance: float) -> None:
        """Set one task's values after the first; what is predicted is overwritten, as new memory costs more."""
        predicted *= self._engine.simulator.belief(float(np.vdot(predicted, predicted)), variance)
        tests = self._tests[task]
        values[1:, tests] = np.add(predicted, self._curve[1:, tests], out=predicted)

    def _finish(self, values: Array) -> None:
        """Set one run's first value and confine it: most are well within, which costs less to see than to do."""
        values[:1] = self._first
        low, high = self._bounds
        if values.min() < low.max() or values.max() > high.min():
            np.clip(values, low, high, out=values)

    @cached_property
    def _slopes(self) -> list[Array]:
        """Of each task half the derivative of v by what a share's kernels are, [steps, kernels, tests].

        This is the adjoint of `Responses.of`: decays and momenta, backwards in time.
        """
        responses, rates = self._engine.simulator.responses, self._rates
        steps, names, decays = len(rates), len(responses.kernels.values), len(responses.decays)
        starts = responses.kernels.steps
        stops = np.append(starts[1:], steps)
        found = []
        for task, apart in enumerate(self._apart):
            weighed = np.tensordot(self._engine.simulator.deviations(task), apart, (0, 0))  # [columns, steps, tests]
            weighed = weighed.reshape(len(responses.momenta), names, decays, steps, -1)
            slope = np.zeros((steps, names, len(starts), weighed.shape[-1]))
            for momentum, of_momentum in zip(responses.momenta, weighed, strict=True):
                left = np.zeros((steps, names, weighed.shape[-1]))
                for i, decay in enumerate(responses.decays):
                    left -= decaying_sum(of_momentum[:, i].swapaxes(0, 1)[::-1], decay)[::-1]
                left *= ((1 - momentum) * rates / (1 - momentum ** np.arange(1, steps + 1)))[:, None, None]
                moves = np.zeros_like(slope)
                for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                    moves[start:stop, :, i] = left[start:stop]
                slope += decaying_sum(moves[::-1], momentum)[::-1]
            found.append(slope.reshape(steps, -1, slope.shape[-1]))
        return found

    def changed(self, changes: Sequence[Change]) -> Array:
        found = np.empty((len(changes), *self.values.shape))
        known = self._engine.share_responses(self._rates)
        if known.rows**2 > MOST_PAIRS:
            for values, change in zip(found, changes, strict=True):
                shares = self._shares.copy()
                shares[change.steps] = change.shares
                values[:] = self._engine.run(shares, self._rates, self._first).values
            return found
        from scipy.sparse import csr_array  # a batch holds few of all examples

        predicted = [np.empty_like(p) for p in self._predicted]
        for start in range(0, len(changes), TOGETHER):
            some = changes[start : start + TOGETHER]
            apart = np.concatenate([change.shares - self._shares[change.steps] for change in some])
            products = csr_array(apart) @ known.flat
            products = products.reshape(len(apart), *known.kernels.shape[::2])  # [changed, kernels, tests]
            stops = np.cumsum([0, *(len(change.steps) for change in some)])
            for i, change in enumerate(some):
                self._change(found[start + i], known, change.steps, products[stops[i] : stops[i + 1]], predicted)
                self._finish(found[start + i])
        return found

    def _change(
        self,
        values: Array,
        known: _ShareResponses,
        steps: NDArray[np.int64],
        products: Array,
        predicted: list[Array],
    ) -> None:
        """Set the values of a run that differs in some steps, [changed].

        Args:
            products: of what shares differ there and kernels, [changed, kernels, tests].
            predicted: of each task memory for what is predicted, [steps, tests].
        """
        # Rows (step, kernel): only kernels of checkpoints that are not yet past; those that act first come first.
        step, kernel = np.nonzero(known.starts[steps] < len(self._rates))
        starts = known.starts[steps[step], kernel]
        order = np.argsort(starts, kind="stable")
        starts, step, kernel = starts[order], step[order], kernel[order]
        rows = steps[step] * len(known.kernels) + kernel
        kept = products[step, kernel]
        for task, tests in enumerate(self._tests):
            of_task, main = kept[:, tests], known.main[task].take(rows, axis=0)
            for begin in range(0, len(main.T), STRETCH):
                stretch = slice(begin, begin + STRETCH)
                acting = int(np.searchsorted(starts, stretch.stop))
                part = np.matmul(main[:acting, stretch].T, of_task[:acting], out=predicted[task][stretch])
                part += self._predicted[task][stretch]
            slope = self._slopes[task][steps[step], kernel]
            square = np.vdot(known.pairs[task].take(rows[:, None] * known.rows + rows), of_task @ of_task.T)
            variance = self._variances[task] + 2 * float(np.vdot(slope, of_task)) + float(square)
            self._put(values, task, predicted[task], max(variance, 0.0))


def _as_slice(numbers: NDArray[np.int64]) -> Any:
    """Return numbers that follow each other as a slice, which copies nothing."""
    if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


class _ShareResponses:
    """What a share of 1 in step s does in step t, before it is multiplied with the kernel, for each of the kernels.

    Kernels are counted by name and then checkpoint; rows are steps times kernels.

    Attributes:
        kernels: [kernels, train, tests].
        flat: [train, kernels x tests], the same.
        main: by task [rows, steps], weighed with the weights.
        replicas: by task [replicas, rows, steps], with the deviations of the replicas' weights.
        starts: [steps, kernels], the step from which a share acts through the kernel; as many as there are: never.
    """

    def __init__(self, simulator: GradientResponse, rates: Array) -> None:
        responses, steps = simulator.responses, len(rates)
        checkpoints = len(responses.kernels.steps)
        names = list(responses.kernels.values)
        self.kernels = np.concatenate([responses.kernels.values[name] for name in names]).astype(float)
        self.flat = self.kernels.transpose(1, 0, 2).reshape(self.kernels.shape[1], -1)
        self.rows = steps * len(self.kernels)
        stops = np.append(responses.kernels.steps[1:], steps)
        share = np.arange(steps)[:, None]
        starts = np.where(share < stops, np.maximum(share, responses.kernels.steps), steps)
        self.starts = np.tile(starts, (1, len(names)))
        weights = [np.concatenate([simulator.weights[task][None], simulator.deviations(task)])
                   for task in range(len(simulator.weights))]  # fmt: skip
        whole = [np.zeros((len(w), steps, len(names), checkpoints, steps)) for w in weights]
        after = np.arange(steps)[:, None] - np.arange(steps)  # [t, s]
        column = 0
        for momentum in responses.momenta:
            moves = np.where(after >= 0, (1 - momentum) * float(momentum) ** np.maximum(after, 0), 0.0)
            moves *= (rates / (1 - momentum ** np.arange(1, steps + 1)))[:, None]
            of_checkpoints = []
            for start, stop in zip(responses.kernels.steps.tolist(), stops.tolist(), strict=True):
                within = np.zeros_like(moves)
                within[start:stop] = moves[start:stop]
                of_checkpoints.append(within)
            stacked = np.stack(of_checkpoints, axis=1)  # [t, checkpoints, s]
            left = [decaying_sum(-stacked, decay).transpose(2, 1, 0) for decay in responses.decays]
            for name in range(len(names)):
                for of_decay in left:
                    for w, total in zip(weights, whole, strict=True):
                        total[:, :, name] += w[:, column, None, None, None] * of_decay
                    column += 1
        flat = [total.reshape(len(total), self.rows, steps) for total in whole]
        self.main, self.replicas = [f[0] for f in flat], [f[1:] for f in flat]

    @cached_property
    def pairs(self) -> list[Array]:
        """By task the products of rows, summed over replicas and steps, [rows, rows]."""
        found = []
        for replicas in self.replicas:
            together = replicas.transpose(1, 0, 2).reshape(self.rows, -1)
            found.append(together @ together.T)
        return found


# --------------------------------------------------------------------------------------------------------- others


class _PooledEngine(_AnewEngine):
    knows_rates = True

    def __init__(self, simulator: PooledResponse) -> None:
        self._simulator, self.tokens = simulator, simulator.responses.kernels.tokens

    def roll_out(self, shares: Array, rates: Array, first: Array) -> Array:
        return self._simulator.follow(shares, rates, first)

    def half_widths(self, shares: Array, rates: Array) -> Array | None:
        return self._simulator.widths(rates)


class _AdditiveEngine(_AnewEngine):
    knows_rates = True

    def __init__(self, simulator: Additive) -> None:
        self._simulator, self.tokens = simulator, simulator.tokens

    def roll_out(self, shares: Array, rates: Array, first: Array) -> Array:
        simulator = self._simulator
        changes = -simulator.scale * np.cumsum(rates[:, None] * (shares @ simulator.scores), axis=0)
        return confine(np.concatenate([first, first + changes])[None], 1, simulator.extent)[0]


class _SameEngine(_AnewEngine):
    """Baselines that no training example moves."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def roll_out(self, shares: Array, rates: Array, first: Array) -> Array:
        nothing = Curricula(np.zeros((1, len(shares), 0), np.int64), rates[None])
        return self._simulator.simulate(nothing, first[None])[0]


class _IntervalEngine(_AnewEngine):
    def __init__(self, simulator: Interval) -> None:
        self._simulator, self._inner = simulator, make_engine(simulator.inner)
        self.knows_rates = self._inner.knows_rates
        self.tokens, self.adds_up = self._inner.tokens, self._inner.adds_up

    def roll_out(self, shares: Array, rates: Array, first: Array) -> Array:
        updates = self._simulator.updates(len(shares))  # [intervals, k]
        if updates is None:
            return self._inner.run(shares, rates, first).values
        # Batches that are one batch to a simulator add up where it adds up, else they count alike.
        merged = shares[updates].sum(axis=1) if self.adds_up else shares[updates].mean(axis=1)
        inner = self._inner.run(merged, rates[updates].mean(axis=1), first[:: self._simulator.interval])
        return self._simulator.between_points(inner.values[None], first[None], len(shares))[0]


class _EachTaskEngine(Engine):
    def __init__(self, simulator: EachTask) -> None:
        self._tests = {task: np.flatnonzero(simulator.test_task == task) for task in simulator.inner}
        self._inner = {task: make_engine(inner) for task, inner in simulator.inner.items()}
        self._any = next(iter(self._inner.values()))
        self.knows_rates, self.tokens, self.adds_up = self._any.knows_rates, self._any.tokens, self._any.adds_up

    def run(self, shares: Array, rates: Array, first: Array) -> Run:
        return _EachTask(
            [(self._tests[task], engine.run(shares, rates, first[:, self._tests[task]]))
             for task, engine in self._inner.items()]
        )  # fmt: skip


class _EachTask(Run):
    def __init__(self, parts: list[tuple[NDArray[np.int64], Run]]) -> None:
        self._parts = parts
        self.values = self._together([run.values for _, run in parts])

    def _together(self, values: list[Array]) -> Array:
        found = np.empty((*values[0].shape[:-1], sum(len(tests) for tests, _ in self._parts)))
        for (tests, _), part in zip(self._parts, values, strict=True):
            found[..., tests] = part
        return found

    def changed(self, changes: Sequence[Change]) -> Array:
        return self._together([run.changed(changes) for _, run in self._parts])
