"""What comes back: trajectories, differences of two, influence of training examples, interactions of pairs.

Each is arrays under names, `rows()` gives it as a `pyarrow.Table`, one value a row, and `frame()` as a pandas data
frame (pandas is imported then, not before). Values are in the metric's unit: loss in nats per token, BLEU 0-100,
ROUGE-L 0-1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators.base import Array
from gptfluence.whatif.curriculum import Curriculum
from gptfluence.words import LEVELS

if TYPE_CHECKING:
    import pandas as pd

FINAL, CURVE = "final", "curve"
"""What influence is on: the last value, or every step's."""


class _Answer(ABC):
    @abstractmethod
    def rows(self) -> pa.Table:
        """Return the values, one a row."""

    def frame(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame."""
        return self.rows().to_pandas()


@dataclass(frozen=True)
class Trajectories(_Answer):
    """Simulated values of test examples at every step.

    Attributes:
        metric: loss, bleu or rouge_l.
        curricula: which runs.
        tests: names of the test examples.
        values: [runs, steps + 1, tests]; index 0 of the second axis is before the first update.
        half_widths: of the intervals of 50, 80 and 95% around each, [levels, runs, steps + 1, tests]; None: this method
            has no intervals. A measured value is to lie in each as often as its level says, one value at a time.
        start: how many first values were given, not simulated.
        distances: [runs], how far each curriculum is from those that were fitted on, in units of the farthest of them;
            above 2 what is simulated may be far off. None: the method does not know.
        notes: what a reader should know.
    """

    metric: str
    curricula: tuple[Curriculum, ...]
    tests: tuple[str, ...]
    values: Array
    half_widths: Array | None
    start: int
    distances: Array | None
    notes: tuple[str, ...] = ()

    @property
    def final(self) -> Array:
        """The last values, [runs, tests]."""
        return self.values[:, -1]

    def interval(self, level: float) -> tuple[Array, Array]:
        """Return the lower and upper ends of an interval, [runs, steps + 1, tests] each.

        Args:
            level: 0.5, 0.8 or 0.95.

        Raises:
            UserError: the method has no intervals, or not of this level.
        """
        if self.half_widths is None:
            raise UserError("this method has no intervals; gradient_response has")
        if level not in LEVELS:
            raise UserError(f"there is no interval of level {level}; there are {', '.join(map(str, LEVELS))}")
        half = self.half_widths[LEVELS.index(level)]
        return self.values - half, self.values + half

    def rows(self) -> pa.Table:
        """Return one row for each run, test and step: curriculum, task, example, step, metric, value, and the ends of
        the intervals (low_50, high_50, ...; null for methods without)."""
        length = self.values.shape[1]
        columns = _columns([curriculum.name for curriculum in self.curricula], self.tests, length)
        columns |= {"metric": _constant(self.metric, self.values.size), "value": self.values.swapaxes(1, 2).ravel()}
        for level in LEVELS:
            for side, name in enumerate(("low", "high")):
                ends = None if self.half_widths is None else self.interval(level)[side].swapaxes(1, 2).ravel()
                columns[f"{name}_{round(100 * level)}"] = (
                    pa.nulls(self.values.size, pa.float64()) if ends is None else ends
                )
        return pa.table(columns)


@dataclass(frozen=True)
class Comparison(_Answer):
    """What one curriculum makes of tests more than another.

    The intervals of both do not tell that of the difference, as errors of like runs are alike; there is none.

    Attributes:
        first, second: the simulated runs, one in each.
        values: [steps + 1, tests], second less first.
    """

    first: Trajectories
    second: Trajectories

    @property
    def values(self) -> Array:
        return self.second.values[0] - self.first.values[0]

    @property
    def final(self) -> Array:
        """Differences of the last values, [tests]."""
        return self.values[-1]

    def rows(self) -> pa.Table:
        """Return one row for each test and step: task, example, step, metric, first, second, difference."""
        length, _ = self.values.shape
        columns = _columns(None, self.first.tests, length)
        columns |= {
            "metric": _constant(self.first.metric, self.values.size),
            "first": self.first.values[0].T.ravel(),
            "second": self.second.values[0].T.ravel(),
            "difference": self.values.T.ravel(),
        }
        return pa.table(columns)


@dataclass(frozen=True)
class Influence(_Answer):
    """What each training example did: the simulated run with it, less the run without it.

    Attributes:
        metric: loss, bleu or rouge_l; of loss an example with a value below 0 is a proponent, else above 0.
        curriculum: the run with all of them.
        train: names of the training examples.
        tests: names of the test examples.
        values: [train, tests], on the last value.
        curves: [train, steps + 1, tests], on every step's; None if not asked for.
        notes: what a reader should know.
    """

    metric: str
    curriculum: Curriculum
    train: tuple[str, ...]
    tests: tuple[str, ...]
    values: Array
    curves: Array | None = None
    notes: tuple[str, ...] = ()

    def proponents(self, test: str | None = None, count: int = 10) -> list[tuple[str, float]]:
        """Return the training examples that did most good to a test (None: to the mean over all), the best first."""
        return self._ranked(test, count, 1.0)

    def opponents(self, test: str | None = None, count: int = 10) -> list[tuple[str, float]]:
        """Return those that did most harm, the worst first."""
        return self._ranked(test, count, -1.0)

    def _ranked(self, test: str | None, count: int, sign: float) -> list[tuple[str, float]]:
        if test is not None and test not in self.tests:
            raise UserError(f"no influence on '{test}' was asked for; it was on {', '.join(self.tests[:5])} ...")
        effects = self.values.mean(axis=1) if test is None else self.values[:, self.tests.index(test)]
        good = -effects if self.metric == "loss" else effects
        order = np.argsort(-sign * good, kind="stable")
        return [(self.train[i], float(effects[i])) for i in order[:count] if sign * good[i] > 0]

    def rows(self) -> pa.Table:
        """Return one row for each pair (and step, if curves were asked for): train, task, example, step, metric,
        influence."""
        curves = self.values[:, None] if self.curves is None else self.curves
        columns = _columns(list(self.train), self.tests, curves.shape[1], "train")
        if self.curves is None:
            columns["step"] = np.full(curves.size, self.curriculum.steps, np.int32)
        columns |= {"metric": _constant(self.metric, curves.size), "influence": curves.swapaxes(1, 2).ravel()}
        return pa.table(columns)


@dataclass(frozen=True)
class Interactions(_Answer):
    """What two training examples do together beyond what each does: influence of the pair less both influences.

    Attributes:
        metric: loss, bleu or rouge_l.
        train: names of the training examples.
        tests: names of the test examples.
        values: [train, train, tests], on the last value; symmetric, 0 of an example with itself.
    """

    metric: str
    train: tuple[str, ...]
    tests: tuple[str, ...]
    values: Array

    def rows(self) -> pa.Table:
        """Return one row for each pair and test: first, second, task, example, metric, interaction."""
        first, second = np.triu_indices(len(self.train), 1)
        tests = len(self.tests)
        columns = _columns(None, self.tests, 1)
        return pa.table(
            {
                "first": _coded(np.repeat(first, tests), self.train),
                "second": _coded(np.repeat(second, tests), self.train),
                "task": _tiled(columns["task"], len(first)),
                "example": np.tile(columns["example"], len(first)),
                "metric": _constant(self.metric, len(first) * tests),
                "interaction": self.values[first, second].ravel(),
            }
        )


def _columns(runs: list[str] | None, tests: tuple[str, ...], length: int, name: str = "curriculum") -> dict[str, Any]:
    """Return the columns that name cells of [runs, tests, length], raveled."""
    count = 1 if runs is None else len(runs)
    run, test, step = (axis.ravel() for axis in np.indices((count, len(tests), length), dtype=np.int32))
    parts = [known.rpartition(":") for known in tests]
    tasks = list(dict.fromkeys(task for task, _, _ in parts))
    code = np.array([tasks.index(task) for task, _, _ in parts], np.int32)
    example = np.array([int(number) for _, _, number in parts], np.int32)
    columns: dict[str, Any] = {} if runs is None else {name: _coded(run, runs)}
    return columns | {"task": _coded(code[test], tasks), "example": example[test], "step": step}


def _coded(codes: NDArray[np.integer], names: Any) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(names), pa.string()))


def _tiled(column: pa.DictionaryArray, times: int) -> pa.DictionaryArray:
    return _coded(np.tile(column.indices.to_numpy(), times), column.dictionary.to_pylist())


def _constant(name: str, size: int) -> pa.DictionaryArray:
    return _coded(np.zeros(size, np.int32), [name])
