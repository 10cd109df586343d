"""GPTfluence with factors bilinear in frozen text features (paper, eq. 4-9), by exact ridge regression or Adam.

With h_i and g_z the features of a training and a test example, `A_ij(z) = <W_j' h_i, U_j' g_z> = h_i' M_j
g_z` and `B_i(z) = h_i' M_0 g_z`, where M = W U'. The batch's aggregate x_t of the h_i passes through:

    m_t(z) = sum_j (prior_j + x_t' M_j g_z) m_{t-j}(z) + x_t' M_0 g_z

so the one-step least-squares objective with L2 on the M is convex, and its minimum is found exactly.

The paper's L2 is on W and U, which are trained by Adam (see `adam`): offered, too. Of all W U' = M the one with
the least `(|W|^2 + |U|^2) / 2` has the nuclear norm of M, so that this is the same least-squares problem with a
nuclear norm in place of the ridge; without any L2 they coincide.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators import adam
from gptfluence.simulators.base import UNBOUNDED, Array, Curricula, Dynamics, Features, Part, Simulator
from gptfluence.simulators.rollout import (
    Aggregation,
    aggregate,
    extent_of,
    lagged,
    metric_scale,
    roll_out,
    unit_length,
    validation_mse,
)

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-10
"""Relative residual of the preconditioned normal equations; factors are then exact to about 1e-7."""
CHOICE_TOLERANCE = 1e-5
"""The same while strengths are compared: those that are not chosen need no more digits than their validation errors."""
MAX_ITERATIONS = 2000

log = logging.getLogger("gptfluence")


class Bilinear(Simulator):
    """GPTfluence with the paper's bilinear head."""

    kind = "gptfluence_bilinear"

    def __init__(
        self,
        order: int,
        start: Literal["given", "zeros"],
        aggregation: Aggregation,
        shrink_to: Literal["persistence", "zero"],
        strengths: tuple[float, ...],
        adam: dict[str, Any] | None = None,
    ) -> None:
        """Set the form of a step.

        Args:
            order: how many previous values a step sees.
            start: all of them given (paper), or the first alone and zeros before it (published code).
            aggregation: sum (paper) or mean of the factors of a batch.
            shrink_to: persistence: alpha_1 = 1 + its factors; zero (paper): alpha_1 = its factors.
            strengths: ridge strengths; the validation runs choose one for all test examples.
            adam: settings of `adam.train`: W and U are trained by it, without strengths. None: M exactly.
        """
        self.order = order
        self.history = start
        self.start = order if start == "given" else 1
        self.aggregation = aggregation
        self.shrink_to = shrink_to
        self.strengths = tuple(strengths)
        self.adam = adam
        self.chosen: dict[str, float] = {}
        # Features in the basis of the fit, and M between them; see `fit`.
        self.train = self.test = self.train_basis = self.test_basis = self.matrices = np.empty(0)

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Fit every strength (or learning rate) and keep the one whose roll-out is best on the validation runs.

        Of equally good strengths it is the strongest.

        Features are divided by the root mean square of their length, so that strengths mean the same for
        every encoder. They are not centred: what text vectors have in common expresses the drift that all
        examples share, and one-hot features stay one-hot, with which this is Simfluence.

        Raises:
            UserError: there are no features, no validation runs, or fewer steps than the order.
        """
        self.fit_parts([Part(dynamics, curricula)], features)

    def fit_parts(self, parts: Sequence[Part], features: Features) -> None:
        """Fit on runs of several schedules; see `fit`. What a step does does not depend on its learning rate.

        Raises:
            UserError: as `fit`.
        """
        for part in parts:
            part.dynamics.check(validation=True)
        self.extent = UNBOUNDED
        scale = metric_scale(*(part.dynamics for part in parts))
        fitted = [
            (dynamics.values[~dynamics.validate] / scale, curricula.examples[~dynamics.validate])
            for dynamics, curricula in parts
        ]
        tests = fitted[0][0].shape[2]
        of_parts = [lagged(values, self.order, self.start) for values, _ in fitted]
        lags = [np.concatenate([lag.reshape(-1, tests) for lag in lag_j]) for lag_j in zip(*of_parts, strict=True)]
        residual = np.concatenate([values[:, self.start :].reshape(-1, tests) for values, _ in fitted])
        if self.shrink_to == "persistence":
            residual = residual - lags[0]
        used = features.train[np.unique(np.concatenate([examples.ravel() for _, examples in fitted]))]
        train = unit_length(features.train, used)
        test = unit_length(features.test, features.test)
        batches = [aggregate(train, examples, self.aggregation)[:, self.start - 1 :] for _, examples in fitted]
        if not (any(part.any() for part in batches) and test.any()):
            raise UserError("the bilinear simulator needs features of the examples; the fit was given none, or zeros")
        steps = np.concatenate([part.reshape(-1, train.shape[1]) for part in batches])

        if self.adam is not None:
            prior = 1.0 if self.shrink_to == "persistence" else 0.0
            self.train, self.test = train, test
            self.train_basis = unit_length(np.eye(train.shape[1]), used)
            self.test_basis = unit_length(np.eye(test.shape[1]), features.test)
            items = adam.Items(lags, residual + prior * lags[0], prior)

            def error(weights: adam.Weights) -> float:
                self.matrices = (weights["W"] @ weights["U"].swapaxes(1, 2)).astype(float)
                self.matrices[-1] *= scale  # beta in the metric's unit
                return np.mean([validation_mse(self, *part) for part in parts])

            trained = adam.train(self.adam, self._draw, _factors(steps, test), items, error)
            self.chosen = trained.chosen
            error(trained.weights)
            self.extent = extent_of(*(part.dynamics for part in parts))
            return

        # The ridge solution lies in the span of the features: fit in an orthonormal basis of each side's.
        _, weights, basis = _thin_svd(steps)
        _, _, test_basis = _thin_svd(test)
        self.train, self.test = train @ basis, test @ test_basis
        self.train_basis = unit_length(basis, used)
        self.test_basis = unit_length(test_basis, features.test)
        solver = _NormalEquations(steps @ basis, weights**2, self.test, [*lags, None], residual)

        best, lowest, unknowns = None, float("inf"), None
        for strength in sorted(self.strengths, reverse=True):
            unknowns = solver.solve(strength, unknowns, CHOICE_TOLERANCE)
            self.matrices = solver.matrices(unknowns, scale)
            found = np.mean([validation_mse(self, *part) for part in parts])
            if best is None or found < lowest:
                best, lowest, self.chosen = unknowns, found, {"strength": strength}
        self.matrices = solver.matrices(solver.solve(self.chosen["strength"], best, TOLERANCE), scale)
        self.extent = extent_of(*(part.dynamics for part in parts))

    def _draw(self, generator: np.random.Generator) -> adam.Weights:
        """Draw W and U, [order + 1, width, width] each."""
        shape = (self.order + 1, self.train.shape[1], self.train.shape[1])
        return {name: adam.linear_layer(generator, *shape) for name in ("W", "U")}

    def transfer(self, features: Features, first_values: Array) -> Self:
        """Take the other tests' features; see `Simulator.transfer`."""
        other = copy(self)
        other.test = features.test @ self.test_basis
        return other

    def extend(self, features: Array) -> Self:
        """Take further training examples' features; see `Simulator.extend`."""
        other = copy(self)
        other.train = np.concatenate([self.train, np.asarray(features, float) @ self.train_basis])
        return other

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out from the given values; see `Simulator.simulate`."""
        used, places = np.unique(curricula.examples, return_inverse=True)
        places = places.reshape(curricula.examples.shape)
        factors = (np.linalg.multi_dot([self.train[used], matrix, self.test.T]) for matrix in self.matrices)
        coefficients = np.stack([aggregate(factor, places, self.aggregation) for factor in factors])
        if self.shrink_to == "persistence":
            coefficients[0] += 1.0
        return roll_out(coefficients[:-1], coefficients[-1], first_values, self.extent)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the features (train [train, p], test [tests, q]), M [order + 1, p, q], the extent, and the settings.

        train_basis ([width, p]) and test_basis ([width, q]) turn features of other examples into those of the fit.
        """
        settings = {
            "order": self.order,
            "start": self.history,
            "aggregation": self.aggregation,
            "shrink_to": self.shrink_to,
            "strengths": list(self.strengths),
            "adam": self.adam,
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return arrays, {"settings": settings, "chosen": self.chosen}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        for name in _ARRAYS:
            setattr(simulator, name, arrays[name])
        simulator.chosen = values["chosen"]
        return simulator


_ARRAYS = ("train", "test", "train_basis", "test_basis", "matrices", "extent")


def _factors(steps: Array, test: Array) -> adam.Factors:
    """Return what makes the factors of items of W and U: `x' W U' g`.

    Args:
        steps: [rows, width], the aggregated features x of every step.
        test: [tests, width], the features g.
    """
    x, g = adam.tensor(steps), adam.tensor(test)

    def factors(p: adam.Parameters, picked: adam.Picked | None) -> torch.Tensor:
        images = (g @ p["U"]).mT
        return adam.pick(lambda rows: (x[rows] @ p["W"]) @ images, picked)

    return factors


class _NormalEquations:
    """The normal equations of all M together, solved by conjugate gradients without ever forming the design.

    The operator is `sum over rows r of x_r x_r' (x) T_r + strength`, where T_r sums `(y y') (x) (g g')` over
    the test examples, y their previous values (and 1) in row r. Values change little over a run compared with
    how they differ between test examples, so `X'X (x) mean of T_r` is close to it. In the eigenbasis of both
    parts that approximation is diagonal: there the unknowns are scaled by it, and few iterations remain.
    """

    def __init__(self, x: Array, x_eigen: Array, g: Array, factors: list[Array | None], residual: Array) -> None:
        """Prepare the equations.

        Args:
            x: [rows, p], with x'x diagonal.
            x_eigen: [p], that diagonal.
            g: [tests, q].
            factors: for each M, what its factor multiplies: [rows, tests], or None for 1.
            residual: [rows, tests], what the sum of the factors has to explain.
        """
        self.x, self.factors = x, factors
        moments = np.array([[_mean_product(a, b, g) for b in factors] for a in factors])  # [k, k, tests]
        k, (tests, q) = len(factors), g.shape
        together = np.einsum("abz,zp,zq->apbq", moments, g, g, optimize=True).reshape(k * q, k * q)
        eigen, vectors = np.linalg.eigh(together)
        kept = eigen > eigen[-1] * len(eigen) * np.finfo(float).eps  # the rest is outside the features' span
        self.vectors = vectors[:, kept].reshape(k, q, -1)
        # [unknowns of the test side, k x tests]: from the eigenbasis to each test example's factors.
        self.to_tests = np.einsum("kqu,zq->ukz", self.vectors, g, optimize=True).reshape(-1, k * tests)
        self.diagonal = np.outer(x_eigen, eigen[kept])
        self.right = self._adjoint(residual)

    def solve(self, strength: float, start: Array | None, tolerance: float) -> Array:
        """Return the unknowns, [p, u].

        Args:
            strength: of the ridge.
            start: where to start, such as another strength's solution; None: at zero.
            tolerance: relative residual.
        """
        from scipy.sparse.linalg import LinearOperator, cg  # a second's import, for fits alone

        scaling = np.sqrt(self.diagonal + strength)

        def product(flat: Array) -> Array:
            unknowns = flat.reshape(scaling.shape) / scaling
            return ((self._adjoint(self._predict(unknowns)) + strength * unknowns) / scaling).ravel()

        operator = LinearOperator((scaling.size, scaling.size), matvec=product, dtype=float)
        solved, unfinished = cg(
            operator,
            (self.right / scaling).ravel(),
            x0=None if start is None else (start * scaling).ravel(),
            rtol=tolerance,
            maxiter=MAX_ITERATIONS,
        )
        if unfinished:
            log.warning("bilinear fit, strength %g: not converged after %d iterations", strength, MAX_ITERATIONS)
        return solved.reshape(scaling.shape) / scaling

    def matrices(self, unknowns: Array, scale: float) -> Array:
        """Return all M, [k, p, q], with beta in the metric's unit, in which `scale` is one of the fit."""
        found = np.einsum("pu,kqu->kpq", unknowns, self.vectors, optimize=True)
        found[-1] *= scale
        return found

    def _predict(self, unknowns: Array) -> Array:
        """Return the sum of the factors for every row and test example: [rows, tests]."""
        parts = np.split(unknowns @ self.to_tests, len(self.factors), axis=1)
        total = np.zeros((len(self.x), parts[0].shape[1]))
        for part, factor in zip(parts, self.factors, strict=True):
            step = self.x @ part
            total += step if factor is None else np.multiply(step, factor, out=step)
        return total

    def _adjoint(self, rows: Array) -> Array:
        parts = [self.x.T @ (rows if factor is None else rows * factor) for factor in self.factors]
        return np.concatenate(parts, axis=1) @ self.to_tests.T


def _mean_product(a: Array | None, b: Array | None, g: Array) -> Array:
    """Return for each test example the mean over rows of a times b: [tests]."""
    if a is None and b is None:
        return np.ones(len(g))
    if a is None or b is None:
        only = a if b is None else b
        assert only is not None
        return only.mean(axis=0)
    return np.einsum("rz,rz->z", a, b) / len(a)


def _thin_svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Return left vectors, singular values and right vectors (as columns) without the null space."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    kept = singular > (singular[:1] * max(matrix.shape) * np.finfo(float).eps)
    return left[:, kept], singular[kept], right[kept].T
