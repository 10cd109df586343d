"""Simfluence: free factors for every pair of a training and a test example (paper, eq. 1-3), by exact ridge
regression.

In step t, with batch c_t, `m_t(z) = alpha m_{t-1}(z) + beta`. The variants:

- linear: alpha = sum of A_i(z), beta = sum of B_i(z) over i in c_t;
- multiplicative: beta = 0;
- additive: alpha = 1.

Each test example is a regression of its own on the fitting runs' steps:
`min sum_t (prediction - m_t)^2 + strength (|A|^2 + |B|^2)`, with the metric in units of its standard
deviation. It is solved exactly, or as the published code does it: by Adam (see `adam`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators import adam
from gptfluence.simulators.base import UNBOUNDED, Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.rollout import (
    Aggregation,
    aggregate,
    counts,
    extent_of,
    metric_scale,
    roll_out,
    validation_mse,
)

if TYPE_CHECKING:
    import torch


class Simfluence(Simulator):
    """Simfluence, fitted exactly or by Adam.

    A training example that occurs in no fitting run has factors of exactly zero: with `shrink_to` persistence
    it changes nothing, with zero it ends the trajectory at 0.
    """

    kind = "simfluence"

    def __init__(
        self,
        variant: Literal["linear", "additive", "multiplicative"],
        aggregation: Aggregation,
        shrink_to: Literal["persistence", "zero"],
        strengths: tuple[float, ...],
        adam: dict[str, Any] | None = None,
    ) -> None:
        """Set how factors make a step.

        Args:
            variant: which factors there are.
            aggregation: sum (paper) or mean of the factors of a batch.
            shrink_to: what no evidence means: persistence writes alpha = 1 + sum of A, zero (paper) alpha =
                sum of A. The additive variant has alpha = 1 in any case.
            strengths: ridge strengths; the validation runs choose one for all test examples.
            adam: settings of `adam.train`, and initial_std (the standard deviation of the initial factors; published
                code: 1): trained by it, without strengths. None: exactly.
        """
        self.variant = variant
        self.aggregation = aggregation
        self.shrink_to = shrink_to
        self.strengths = tuple(strengths)
        self.prior = 1.0 if shrink_to == "persistence" or variant == "additive" else 0.0
        self.adam = adam
        self.chosen: dict[str, float] = {}
        self.factors: dict[str, Array] = {}  # "A", "B": [train, tests]; B in the metric's unit

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit every strength (or learning rate) and keep the one whose roll-out is best on the validation runs.

        Of equally good strengths it is the strongest.
        """
        dynamics.check(validation=True)
        self.extent = UNBOUNDED
        scale = metric_scale(dynamics)
        fitting = ~dynamics.validate
        values = dynamics.values[fitting] / scale
        tests = values.shape[2]
        previous = values[:, :-1].reshape(-1, tests)
        residual = values[:, 1:].reshape(-1, tests) - self.prior * previous
        used, examples = np.unique(curricula.examples[fitting], return_inverse=True)
        examples = examples.reshape(curricula.examples[fitting].shape)

        def error(solved: Mapping[str, NDArray[np.floating]]) -> float:
            """Take factors of the used examples over, and return their validation MSE."""
            self.factors = {}
            for name, factor in solved.items():
                self.factors[name] = np.zeros((len(features.train), tests))
                self.factors[name][used] = factor * scale if name == "B" else factor
            return validation_mse(self, dynamics, curricula)

        if self.adam is not None:
            target = residual + self.prior * previous
            items = adam.Items([previous], target, self.prior)
            solved, self.chosen = _by_adam(self.adam, self.variant, examples, self.aggregation, items, error)
            error(solved)
            self.extent = extent_of(dynamics)
            return
        solve = _Ridge(self.variant, examples, self.aggregation, previous, residual)

        best, lowest = {}, float("inf")
        for strength in sorted(self.strengths, reverse=True):
            found = error(solve(strength))
            if not best or found < lowest:
                best, lowest, self.chosen = self.factors, found, {"strength": strength}
        self.factors, self.extent = best, extent_of(dynamics)

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out from one given value; see `Simulator.simulate`."""
        shape = (*curricula.examples.shape[:2], first_values.shape[2])
        alpha, beta = (
            aggregate(self.factors[name], curricula.examples, self.aggregation)
            if name in self.factors
            else np.zeros(shape)
            for name in ("A", "B")
        )
        alpha += self.prior
        return roll_out(alpha[None], beta, first_values, self.extent)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the factors ([train, tests] each), the extent and the settings with the chosen strength."""
        settings = {
            "variant": self.variant,
            "aggregation": self.aggregation,
            "shrink_to": self.shrink_to,
            "strengths": list(self.strengths),
            "adam": self.adam,
        }
        return {**self.factors, "extent": self.extent}, {"settings": settings, "chosen": self.chosen}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        simulator.factors = {name: arrays[name] for name in ("A", "B") if name in arrays}
        simulator.extent = arrays["extent"]
        simulator.chosen = values["chosen"]
        return simulator


def _names(variant: str) -> tuple[str, ...]:
    """Return which factors a variant has."""
    return {"linear": ("A", "B"), "multiplicative": ("A",), "additive": ("B",)}[variant]


def _by_adam(
    settings: dict[str, Any],
    variant: str,
    examples: NDArray[np.int64],
    aggregation: Aggregation,
    items: adam.Items,
    error: Callable[[adam.Weights], float],
) -> adam.Trained:
    """Train the factors of the used examples: [used, tests] each.

    They are one table with a row for every pair of a training and a test example, as in the published code, of which
    each of some items reads as many rows as its batch has examples; for all items it is one product.

    Args:
        examples: [runs, steps, batch], numbers of used examples.
        error: returns the validation MSE of factors.
    """
    import torch

    names, batches = _names(variant), torch.from_numpy(examples.reshape(-1, examples.shape[2]))
    used, tests = int(examples.max()) + 1, items.target.shape[1]
    share = adam.tensor(counts(examples, used, aggregation).reshape(-1, used))

    def draw(generator: np.random.Generator) -> adam.Weights:
        std = settings["initial_std"]
        return {name: (std * generator.standard_normal((used, tests))).astype(np.float32) for name in names}

    def factors(p: adam.Parameters, picked: adam.Picked | None) -> torch.Tensor:
        if picked is None:
            total = {name: share @ p[name] for name in names}
        else:
            rows, columns = picked
            table = torch.stack([p[name] for name in names], -1).reshape(used * tests, len(names))
            pairs = batches[rows] * tests + columns[:, None]
            total = dict(zip(names, torch.nn.functional.embedding_bag(pairs, table, mode=aggregation).T, strict=True))
        nothing = torch.zeros_like(total[names[0]])
        return torch.stack([total.get(name, nothing) for name in ("A", "B")])

    return adam.train(settings, draw, factors, items, error)


class _Ridge:
    """The regressions of all test examples: what does not depend on the strength is computed once.

    With C the counts [rows, train] of the fitting runs' steps and y the previous values of one test example,
    the design is [diag(y) C, C]. Solved in whichever is smaller: the factors (normal equations), or the rows
    (dual), whose Gram matrix is C C' times, entry by entry, y y' + 1.
    """

    def __init__(
        self,
        variant: str,
        examples: NDArray[np.int64],
        aggregation: Aggregation,
        previous: Array,
        residual: Array,
    ) -> None:
        self.variant = variant
        self.previous, self.residual = previous, residual  # [rows, tests]
        self.train = int(examples.max()) + 1
        self.counts = counts(examples, self.train, aggregation).reshape(-1, self.train)
        self.primal = self.train * (2 if variant == "linear" else 1) <= len(self.counts)
        if not self.primal:
            self.gram = self.counts @ self.counts.T
            return
        # A batch is a handful of examples, so C' diag(w) C is a sum over the pairs within batches, not a
        # product.
        batch = examples.shape[2]
        rows = examples.reshape(-1, batch)
        self.pairs = (rows[:, :, None] * self.train + rows[:, None, :]).ravel()
        self.pair_weight = 1.0 / batch**2 if aggregation == "mean" else 1.0
        self.pairs_per_row = batch * batch

    def __call__(self, strength: float) -> dict[str, Array]:
        """Return the factors A, B ([train, tests] each; those that the variant has)."""
        if self.variant == "additive":  # one Gram matrix for all test examples
            if self.primal:
                gram = self._weighted_gram(np.ones(len(self.residual)))
                return {"B": _solve(gram, self.counts.T @ self.residual, strength)}
            return {"B": self.counts.T @ _solve(self.gram.copy(), self.residual, strength)}
        solve = self._primal if self.primal else self._dual
        names = _names(self.variant)
        solved = np.empty((len(names), self.train, self.residual.shape[1]))
        for z in range(self.residual.shape[1]):
            solved[:, :, z] = solve(self.previous[:, z], self.residual[:, z], strength)
        return dict(zip(names, solved, strict=True))

    def _primal(self, y: Array, residual: Array, strength: float) -> Array:
        n = self.train
        right = self.counts.T @ (y * residual)
        gram = self._weighted_gram(y * y)
        if self.variant == "multiplicative":
            return _solve(gram, right, strength)[None]
        whole = np.empty((2 * n, 2 * n))
        whole[:n, :n] = gram
        whole[:n, n:] = whole[n:, :n] = self._weighted_gram(y)
        whole[n:, n:] = self._weighted_gram(np.ones_like(y))
        return _solve(whole, np.concatenate([right, self.counts.T @ residual]), strength).reshape(2, n)

    def _dual(self, y: Array, residual: Array, strength: float) -> Array:
        linear = self.variant == "linear"
        dual = _solve(self.gram * (np.outer(y, y) + (1.0 if linear else 0.0)), residual, strength)
        return np.stack([y * dual, dual] if linear else [y * dual]) @ self.counts

    def _weighted_gram(self, weights: Array) -> Array:
        """Return C' diag(weights) C."""
        each = np.repeat(weights * self.pair_weight, self.pairs_per_row)
        return np.bincount(self.pairs, each, minlength=self.train**2).reshape(self.train, self.train)


def _solve(gram: Array, right: Array, strength: float) -> Array:
    """Solve (gram + strength I) x = right by Cholesky: for the few strengths of a grid cheaper than an eigenbasis.

    A strength below the rounding error of the Gram matrix counts as that error: no smaller one means anything.
    """
    from scipy.linalg.lapack import dposv  # a second's import, for fits alone

    rounding = len(gram) * float(np.trace(gram)) * np.finfo(float).eps
    gram[np.diag_indices_from(gram)] += max(strength, rounding)
    # `gram` is symmetric, so its transpose is a Fortran-ordered view of the same matrix: nothing is copied.
    _, solution, info = dposv(gram.T, right, lower=1, overwrite_a=1)
    assert not info, "a Gram matrix that is not finite"
    return solution if right.ndim == 2 else solution.reshape(-1)
