"""Adam on single steps against exact solutions of the same objective."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gptfluence.simulators import adam
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.mlp import Mlp
from gptfluence.simulators.rollout import aggregate, lagged, validation_mse
from gptfluence.simulators.simfluence import Simfluence
from synthetic import planted

Group = tuple[Dynamics, Curricula, Features]


def settings(**changes: Any) -> dict[str, Any]:
    own = {"learning_rates": [0.05], "weight_decay": 0.0, "batch": None, "warmup": 20, "epochs": 5000, "seed": 42}
    return own | {"patience": own["epochs"] + 1} | changes


def noisy(runs: int, train: int) -> tuple[Dynamics, Curricula, Features]:
    """Planted dynamics that no factors explain exactly."""
    dynamics, curricula, features = planted(runs=runs, steps=12, batch=2, train=train, tests=3)
    values = dynamics.values + 0.02 * np.random.default_rng(5).normal(size=dynamics.values.shape)
    return Dynamics(values, dynamics.validate), curricula, features


class LastEpoch:
    """Makes every roll-out better than the one before, so that what is kept is where training ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.calls = 0
        monkeypatch.setattr(module, "validation_mse", self)

    def __call__(self, *_: object) -> float:
        self.calls += 1
        return 1.0 / self.calls


def predicted_steps(simulator: Bilinear | Simfluence, factors: list[Array], group: Group, order: int) -> Array:
    """Return what a simulator predicts of each next true value."""
    values, examples = (array[~group[0].validate] for array in (group[0].values, group[1].examples))
    coefficients = [aggregate(table, examples, simulator.aggregation)[:, simulator.start - 1 :] for table in factors]
    coefficients[0] = coefficients[0] + (1.0 if simulator.shrink_to == "persistence" else 0.0)
    lags = [*lagged(values, order, simulator.start), 1.0]
    return sum(a * lag for a, lag in zip(coefficients, lags, strict=True))


def assert_same_predictions(trained: Array, exact: Array, group: Group) -> None:
    """They differ by less than a twentieth of what the exact solution leaves unexplained.

    Factors hardly matter along some directions: what a value was, and what it was before, is nearly the same.
    """
    left = group[0].values[~group[0].validate][:, -exact.shape[1] :] - exact
    assert np.sqrt(np.mean((trained - exact) ** 2)) < 0.05 * np.sqrt(np.mean(left**2))


@pytest.mark.parametrize(
    ("variant", "aggregation"), [("linear", "sum"), ("additive", "mean"), ("multiplicative", "mean")]
)
def test_simfluence_converges_to_the_exact_ridge(
    variant: str, aggregation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptfluence.simulators import simfluence

    dynamics, curricula, features = noisy(runs=12, train=8)
    items = 10 * 12 * 3  # fitting runs, steps, tests
    strength = 0.6
    exact = Simfluence(variant, aggregation, "persistence", (strength,))
    exact.fit(dynamics, curricula, features)
    LastEpoch(monkeypatch, simfluence)
    training = settings(weight_decay=2 * strength / items, initial_std=1.0)
    trained = Simfluence(variant, aggregation, "persistence", (strength,), training)
    trained.fit(dynamics, curricula, features)
    assert trained.chosen == {"learning_rate": 0.05, "epochs": 5000}
    assert trained.factors.keys() == exact.factors.keys()
    for name, factors in exact.factors.items():
        assert np.abs(factors).max() > 0.01
        np.testing.assert_allclose(trained.factors[name], factors, atol=1e-3 * np.abs(factors).max())


def test_batches_of_128_items_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over the batch, alpha shrunk to zero, N(0, 1) to begin with: still the exact solution, nearly."""
    from gptfluence.simulators import simfluence

    dynamics, curricula, features = noisy(runs=12, train=8)
    exact = Simfluence("linear", "sum", "zero", (0.6,))
    exact.fit(dynamics, curricula, features)
    LastEpoch(monkeypatch, simfluence)
    training = settings(weight_decay=2 * 0.6 / 360, batch=128, epochs=1500, patience=1501, initial_std=1.0)
    trained = Simfluence("linear", "sum", "zero", (0.6,), training)
    trained.fit(dynamics, curricula, features)
    group = dynamics, curricula, features
    assert_same_predictions(*(predicted_steps(s, list(s.factors.values()), group, 1) for s in (trained, exact)), group)


@pytest.mark.parametrize(("order", "start"), [(1, "given"), (2, "given"), (2, "zeros")])
def test_gptfluence_without_l2_converges_to_exact_least_squares(
    order: int, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptfluence.simulators import bilinear

    dynamics, curricula, features = noisy(runs=30, train=24)
    features = Features(features.train[:, :2], features.test[:, :2])
    exact = Bilinear(order, start, "sum", "persistence", (1e-9,))
    exact.fit(dynamics, curricula, features)
    LastEpoch(monkeypatch, bilinear)
    trained = Bilinear(order, start, "sum", "persistence", (1e-9,), settings(epochs=6000, patience=6001))
    trained.fit(dynamics, curricula, features)
    group = dynamics, curricula, features
    steps = [predicted_steps(s, [s.train @ m @ s.test.T for m in s.matrices], group, order) for s in (trained, exact)]
    assert_same_predictions(*steps, group)


def test_gptfluence_with_l2_on_w_and_u_has_the_least_nuclear_norm_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convex problem in M = W U' that the paper's objective amounts to, by proximal gradient steps."""
    from gptfluence.simulators import bilinear

    dynamics, curricula, features = noisy(runs=12, train=24)
    decay = 2e-3
    LastEpoch(monkeypatch, bilinear)
    trained = Bilinear(
        1, "given", "mean", "persistence", (1.0,), settings(weight_decay=decay, epochs=1500, patience=1501)
    )
    trained.fit(dynamics, curricula, features)

    fitting = ~dynamics.validate
    scale = dynamics.values[fitting].std()
    y = dynamics.values[fitting] / scale
    x = aggregate(trained.train, curricula.examples[fitting], "mean").reshape(-1, 6)
    before, target = y[:, :-1].reshape(-1, 3), (y[:, 1:] - y[:, :-1]).reshape(-1, 3)
    # One row for each item: (y x (x) g, x (x) g), against both M as one vector.
    pairs = np.einsum("rp,zq->rzpq", x, trained.test).reshape(-1, 36)
    design = np.concatenate([before.reshape(-1, 1) * pairs, pairs], axis=1)
    rows = len(design)

    def objective(m: np.ndarray) -> float:
        norms = sum(np.linalg.svd(part, compute_uv=False).sum() for part in m.reshape(2, 6, 6))
        return float(np.mean((design @ m - target.ravel()) ** 2) + decay * norms)

    m = np.zeros(72)
    step = 1 / (2 * np.linalg.norm(design, 2) ** 2 / rows)
    for _ in range(3000):
        m = m - step * 2 / rows * design.T @ (design @ m - target.ravel())
        for part in m.reshape(2, 6, 6):
            left, singular, right = np.linalg.svd(part)
            part[:] = (left * np.maximum(singular - step * decay, 0)) @ right
    found = trained.matrices.copy()
    found[-1] /= scale
    least = objective(m)
    assert least < 0.9 * objective(np.zeros(72)), "the norm must not forbid everything"
    assert least <= objective(found.ravel()) + 1e-9
    assert objective(found.ravel()) == pytest.approx(least, rel=2e-3)


def test_learning_rate_epoch_and_seed() -> None:
    dynamics, curricula, features = planted(train=8)
    rates = ([0.0005, 0.05], [0.0005], [0.05])

    def fit(seed: int = 1, **changes: Any) -> Simfluence:
        training = settings(epochs=30, patience=31, initial_std=0.01, batch=500, seed=seed, **changes)
        simulator = Simfluence("linear", "mean", "persistence", (1.0,), training)
        simulator.fit(dynamics, curricula, features)
        return simulator

    both, *each = (fit(learning_rates=rate) for rate in rates)
    errors = [validation_mse(simulator, dynamics, curricula) for simulator in each]
    best = each[int(np.argmin(errors))]
    assert both.chosen == best.chosen and errors[0] != errors[1]
    np.testing.assert_array_equal(both.factors["A"], best.factors["A"])
    assert validation_mse(both, dynamics, curricula) == min(errors)
    np.testing.assert_array_equal(fit().factors["B"], fit().factors["B"])
    assert not np.array_equal(fit().factors["B"], fit(seed=2).factors["B"])


@pytest.mark.parametrize(
    "simulator",
    [
        Simfluence("linear", "sum", "persistence", (1.0,), settings(initial_std=1.0)),
        Simfluence("multiplicative", "mean", "zero", (1.0,), settings(initial_std=1.0)),
        Bilinear(2, "given", "mean", "persistence", (1.0,), settings()),
        Mlp(1, "given", "sum", "zero", settings()),
    ],
    ids=["linear", "multiplicative", "bilinear", "mlp"],
)
def test_all_items_at_once_are_each_item(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same errors and gradients, whether items are picked or read as they lie."""
    import torch

    found: list[list[Any]] = []

    def compare(
        _: object, draw: Any, factors: adam.Factors, items: adam.Items, validate: Callable[[adam.Weights], float]
    ) -> adam.Trained:
        weights = draw(np.random.default_rng(1))
        rows, tests = items.target.shape
        every = tuple(part.ravel() for part in torch.meshgrid(torch.arange(rows), torch.arange(tests), indexing="ij"))
        for picked in (None, every):
            parameters = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in weights.items()}
            error = items.error(factors(parameters, picked), picked)
            error.backward()
            found.append([error.detach(), *(parameter.grad for parameter in parameters.values())])
        validate(weights)
        return adam.Trained(weights, {})

    monkeypatch.setattr(adam, "train", compare)
    simulator.fit(*noisy(runs=6, train=8))
    whole, picked = found
    assert float(whole[0]) > 0.01
    for ours, each in zip(whole, picked, strict=True):
        torch.testing.assert_close(ours, each, rtol=1e-4, atol=1e-5 * float(each.abs().max()))
