"""Trajectories of many curricula that differ little, for every kind of simulator.

A simulator reads rectangular batches. What it makes of them depends on the shares that examples have in their batches
alone, so here a run is a matrix of shares, [steps, train], and batches may be of any size. Of a `Run` what depends on
its shares is computed once; of others that have other shares in a few steps only the difference is:

- recurrences (`Simfluence`, `Bilinear`, `Mlp`): the coefficients of changed steps; the roll-out goes over all steps.
- gradient response: the response to a share in step s through the kernels of a checkpoint is known beforehand for every
  step until the next checkpoint, and behind it decays. So a changed run costs a product of matrices for each
  checkpoint, with a row for each changed step before the next one. How much of it is believed is a quotient of
  quadratic forms, and these are updated likewise.

Both are exact: nothing is linearised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

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
from gptfluence.simulators.ridge import ROUNDING
from gptfluence.simulators.rollout import bounds, confine, repeat_curve, roll_out
from gptfluence.simulators.simfluence import Simfluence

TOGETHER = 32
"""Changed runs that are computed at once: what they share costs less, and stays in the processor's caches."""
STRETCH = 75
"""Steps that are computed at once: fewer leave out more products with 0, more are faster."""
MOST_PAIRS = 5000**2
"""Products of responses that are kept, 8 bytes each; of longer runs each change is computed anew."""


@dataclass(frozen=True)
class Change:
    """Other batches in some steps of a run.

    Attributes:
        steps: [changed], from 0, ascending.
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

    def shares(self, examples: NDArray[np.int64], sizes: Sequence[int], train: int) -> Array:
        """Return the shares of `train` examples in batches of any sizes, [batches, train].

        Args:
            examples: numbers, one batch behind the other.
            sizes: how many each batch has.
            train: how many examples there are.
        """
        found = np.zeros((len(sizes), train))
        rows = np.repeat(np.arange(len(sizes)), sizes)
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
        self._tests = [_as_slice(simulator.task == task) for task in range(len(simulator.weights))]
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
            self.values[1:, self._tests[task]] = p
            self._believe(self.values, task, variance)
        self._finish(self.values)

    def _believe(self, values: Array, task: int, variance: float) -> None:
        """Make values of what is predicted of one task, in place."""
        tests = self._tests[task]
        predicted = values[1:, tests]
        predicted *= self._engine.simulator.belief(float(np.einsum("ij,ij->", predicted, predicted)), variance)
        predicted += self._curve[1:, tests]

    def _finish(self, values: Array) -> None:
        """Set one run's first value and confine it: most are well within, which costs less to see than to do."""
        values[:1] = self._first
        low, high = self._bounds
        if values.min() < low.max() or values.max() > high.min():
            np.clip(values, low, high, out=values)

    @cached_property
    def _slopes(self) -> list[Array]:
        """Of each task half the derivative of v by the shares, [steps, train].

        This is the adjoint of `Responses.of`: decays and momenta, backwards in time, and then kernels.
        """
        responses, rates = self._engine.simulator.responses, self._rates
        steps, decays = len(rates), len(responses.decays)
        found = []
        for task, (apart, tests) in enumerate(zip(self._apart, self._tests, strict=True)):
            weighed = np.tensordot(self._engine.simulator.deviations(task), apart, (0, 0))  # [columns, steps, tests]
            weighed = weighed.reshape(len(responses.momenta), len(responses.kernels.values), decays, steps, -1)
            slope = np.zeros_like(self._shares)
            for momentum, of_momentum in zip(responses.momenta, weighed, strict=True):
                moves = np.zeros_like(self._shares)
                for name, of_name in zip(responses.kernels.values, of_momentum, strict=True):
                    left = sum(-decaying_sum(values[::-1], d)[::-1]
                               for values, d in zip(of_name, responses.decays, strict=True))  # fmt: skip
                    left *= ((1 - momentum) * rates / (1 - momentum ** np.arange(1, steps + 1)))[:, None]
                    for start, stop, kernel in responses.kernels.spans(name, steps):
                        moves[start:stop] += left[start:stop] @ kernel[:, tests].T
                slope += decaying_sum(moves[::-1], momentum)[::-1]
            found.append(slope)
        return found

    def changed(self, changes: Sequence[Change]) -> Array:
        found = np.empty((len(changes), *self.values.shape))
        if _count_rows(self._engine.simulator, len(self._rates)) ** 2 > MOST_PAIRS:
            for values, change in zip(found, changes, strict=True):
                shares = self._shares.copy()
                shares[change.steps] = change.shares
                values[:] = self._engine.run(shares, self._rates, self._first).values
            return found
        known = self._engine.share_responses(self._rates)
        for start in range(0, len(changes), TOGETHER):
            some = changes[start : start + TOGETHER]
            parts = self._parts(known, some)
            for values, change, part in zip(found[start : start + len(some)], some, parts, strict=True):
                self._change(values, known, change.steps, part)
                self._finish(values)
        return found

    @cached_property
    def _moved(self) -> Array:
        """What a share of each example does by itself, and behind them what each of the run's own batches does, through
        the kernels of each checkpoint: [checkpoints x (train + steps), names x tests]."""
        kernels = self._engine.share_responses(self._rates).kernels
        return np.concatenate([kernels, self._shares @ kernels], axis=1).reshape(-1, kernels.shape[2])

    def _parts(self, known: _ShareResponses, changes: Sequence[Change]) -> list[_Part]:
        """Return what the shares of changed steps differ by, as far as no other step matters.

        Where an example leaves a batch or comes into it, the shares of the others change by one factor: the difference
        is a multiple of the run's own batch and of few examples.
        """
        from scipy.sparse import csr_array

        steps = np.concatenate([change.steps for change in changes])
        shares = np.concatenate([change.shares for change in changes])
        own = self._shares[steps]
        every = np.arange(len(steps))
        one = ((own > 0) & (shares > 0)).argmax(axis=1)  # an example that stays, if one does
        factor = np.divide(shares[every, one], own[every, one], out=np.zeros(len(steps)), where=own[every, one] > 0)
        apart = shares - factor[:, None] * own
        row, example = np.nonzero(np.abs(apart) > ROUNDING)
        width = sum(self._shares.shape)
        row, column = np.append(row, every), np.append(example, self._shares.shape[1] + steps)
        data = np.append(apart[row[: len(example)], example], factor - 1)
        differing = csr_array((data, (row, column)), (len(steps), width))
        # A row for each changed step and each checkpoint whose kernels it still meets.
        number = np.repeat(np.arange(len(changes)), [len(change.steps) for change in changes])
        at, checkpoint = np.nonzero(known.places[steps] >= 0)
        order = np.lexsort((at, checkpoint, number[at]))
        at, checkpoint = at[order], checkpoint[order]
        rows = differing[at]
        indices = rows.indices + np.repeat(checkpoint * width, np.diff(rows.indptr))
        rows = csr_array((rows.data, indices, rows.indptr), (len(at), len(self._moved)))
        products = (rows @ self._moved).reshape(len(at) * known.names, self._moved.shape[1] // known.names)
        places = known.places[steps[at], checkpoint][:, None] + np.arange(known.names)
        slopes = [np.einsum("ij,ij->i", shares - own, slope[steps]) for slope in self._slopes]
        ends = np.cumsum([0, *np.bincount(number[at], minlength=len(changes))]) * known.names
        stops = np.cumsum([0, *(len(change.steps) for change in changes)])
        return [
            _Part(products[ends[i] : ends[i + 1]], places.ravel()[ends[i] : ends[i + 1]],
                  [float(slope[stops[i] : stops[i + 1]].sum()) for slope in slopes])
            for i in range(len(changes))
        ]  # fmt: skip

    def _change(self, values: Array, known: _ShareResponses, steps: NDArray[np.int64], part: _Part) -> None:
        """Set the values of a run that differs in some steps, [changed]."""
        places = (steps[:, None] * known.names + np.arange(known.names)).ravel()
        counts = (np.searchsorted(steps, known.bounds) * known.names).tolist()  # rows of steps before each bound
        for task, tests in enumerate(self._tests):
            products, own, new = part.products[:, tests], self._predicted[task], values[1:, tests]
            state: Array | None = None  # what is left of past checkpoints' responses, [decays, tests]
            first = bound = 0
            for main, ends, (start, *stops) in zip(known.main[task], known.ends[task], known.stretches, strict=True):
                count = counts[bound + len(stops) - 1]
                of_checkpoint = products[first : first + count]
                main = main.take(places[:count], axis=0)
                begin = start
                for stop, acting in zip(stops, counts[bound:], strict=False):
                    stretch = new[begin:stop]
                    np.matmul(main[:acting, begin - start : stop - start].T, of_checkpoint[:acting], out=stretch)
                    stretch += own[begin:stop]
                    if state is not None:
                        stretch += known.powers[begin + 1 - start : stop + 1 - start] @ state
                    begin = stop
                left = ends.take(places[:count], axis=0).T @ of_checkpoint
                state = left if state is None else left + known.powers[begin - start][:, None] * state
                first, bound = first + count, bound + len(stops)
            pairs = known.pairs[task]
            pairs = pairs.take(part.places[:, None] * len(pairs) + part.places)
            variance = self._variances[task] + 2 * part.slopes[task] + float(np.vdot(pairs, products @ products.T))
            self._believe(values, task, max(variance, 0.0))


class _Part(NamedTuple):
    """What a change does through kernels.

    Attributes:
        products: of what shares differ by and kernels, [rows, tests]; a row is of a checkpoint, a step and a kernel's
            name, in this order.
        places: [rows], which of all steps' rows these are.
        slopes: by task, what the variance changes by, halved, in first order.
    """

    products: Array
    places: NDArray[np.int64]
    slopes: list[float]


def _as_slice(chosen: NDArray[np.bool_]) -> slice:
    """Return where the chosen tests are; those of a task follow each other."""
    numbers = np.flatnonzero(chosen)
    assert numbers[-1] - numbers[0] + 1 == len(numbers), "tests of a task are not one behind the other"
    return slice(int(numbers[0]), int(numbers[-1]) + 1)


def _count_rows(simulator: GradientResponse, steps: int) -> int:
    """Return how many rows `_ShareResponses` has."""
    kernels = simulator.responses.kernels
    return int(np.append(kernels.steps[1:], steps).sum()) * len(kernels.values)


class _ShareResponses:
    """What a share of 1 in step s does in step t, before it is multiplied with the kernel, for each of the kernels.

    A row is of a step, a checkpoint that is not past then, and a kernel's name, in this order.

    Attributes:
        names: how many kernels a checkpoint has.
        kernels: [checkpoints, train, names x tests].
        stretches: of each checkpoint, the step from which its kernels act, and up to which, in stretches.
        bounds: the ends of all stretches.
        main: by task and checkpoint [steps x names, stop - start], weighed with the weights.
        ends: by task and checkpoint [steps x names, decays], what is left in its last step, for each decay.
        powers: [steps + 1, decays], what is left of a response after some steps.
        places: [steps, checkpoints], the first row; -1: the checkpoint is past.
        replicas: by task [replicas, rows, steps], with the deviations of the replicas' weights.
    """

    def __init__(self, simulator: GradientResponse, rates: Array) -> None:
        responses, steps = simulator.responses, len(rates)
        values = np.stack(list(responses.kernels.values.values()), axis=2).astype(float)
        checkpoints, train, self.names, tests = values.shape
        self.kernels = values.reshape(checkpoints, train, self.names * tests)
        starts, stops = responses.kernels.steps, np.append(responses.kernels.steps[1:], steps)
        self.stretches = [[*range(start, stop, STRETCH), stop]
                          for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]  # fmt: skip
        self.bounds = np.concatenate([of_checkpoint[1:] for of_checkpoint in self.stretches])
        meets = np.arange(steps)[:, None] < stops
        self.places = np.where(meets, (np.cumsum(meets).reshape(meets.shape) - 1) * self.names, -1)
        self.powers = np.power(responses.decays, np.arange(steps + 1)[:, None])
        weights = [np.concatenate([simulator.weights[task][None], simulator.deviations(task)])
                   for task in range(len(simulator.weights))]  # fmt: skip
        whole = [np.zeros((len(w), steps, checkpoints, self.names, steps)) for w in weights]
        ends = [np.zeros((checkpoints, steps, self.names, len(responses.decays))) for _ in weights]
        after = np.arange(steps)[:, None] - np.arange(steps)  # [t, s]
        column = 0
        for momentum in responses.momenta:
            moves = np.where(after >= 0, (1 - momentum) * float(momentum) ** np.maximum(after, 0), 0.0)
            moves *= (rates / (1 - momentum ** np.arange(1, steps + 1)))[:, None]
            stacked = np.zeros((steps, checkpoints, steps))  # [t, checkpoints, s]
            for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                stacked[start:stop, i] = moves[start:stop]
            left = [decaying_sum(-stacked, decay).transpose(2, 1, 0) for decay in responses.decays]
            for name in range(self.names):
                for decay, of_decay in enumerate(left):
                    end = of_decay[:, np.arange(checkpoints), stops - 1].T  # [checkpoints, s]
                    for w, total, at_end in zip(weights, whole, ends, strict=True):
                        total[:, :, :, name] += w[:, column, None, None, None] * of_decay
                        at_end[:, :, name, decay] += w[0, column] * end
                    column += 1
        self.main = [
            [total[0, :, i, :, start:stop].reshape(steps * self.names, -1)
             for i, (start, stop) in enumerate(zip(starts, stops, strict=True))]
            for total in whole
        ]  # fmt: skip
        self.ends = [at_end.reshape(checkpoints, steps * self.names, -1) for at_end in ends]
        kept = np.repeat(meets.ravel(), self.names)
        self.replicas = [total[1:].reshape(len(total) - 1, len(kept), steps)[:, kept] for total in whole]

    @cached_property
    def pairs(self) -> list[Array]:
        """By task the products of rows, summed over replicas and steps, [rows, rows]."""
        found = []
        for replicas in self.replicas:
            together = replicas.transpose(1, 0, 2).reshape(replicas.shape[1], -1)
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
