import numpy as np
import pytest
from gptfluence.baselines.trivial import MeanCurve
from gptfluence.simulators.base import Curricula, Dynamics, Features
from gptfluence.simulators.rollout import all_steps_mse
from gptfluence.simulators.simfluence import Simfluence
from synthetic import STRENGTHS, planted, split


def by_normal_equations(dynamics, examples, train, variant, aggregation, prior, strength):
    """Ridge per test example on an explicit design: A and B, [train, tests] each."""
    fitting = ~dynamics.validate
    scale = dynamics.values[fitting].std()
    y = dynamics.values[fitting] / scale
    factors = np.zeros((2, train, y.shape[2]))
    for z in range(y.shape[2]):
        design, target = [], []
        for run, batches in zip(y[:, :, z], examples[fitting], strict=True):
            for t, batch in enumerate(batches):
                row = np.zeros((2, train))
                for i in batch:
                    row[:, i] += np.array([run[t], 1.0]) / (len(batch) if aggregation == "mean" else 1)
                design.append(row[{"linear": [0, 1], "multiplicative": [0], "additive": [1]}[variant]].ravel())
                target.append(run[t + 1] - prior * run[t])
        x = np.array(design)
        solved = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ np.array(target))
        parts = {"linear": [0, 1], "multiplicative": [0], "additive": [1]}[variant]
        factors[parts, :, z] = solved.reshape(len(parts), train)
    factors[1] *= scale
    return factors


@pytest.mark.parametrize("variant", ["linear", "additive", "multiplicative"])
@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("shrink_to", ["persistence", "zero"])
@pytest.mark.parametrize("train", [5, 60])  # more rows than unknowns, and fewer: primal and dual
def test_equals_normal_equations(variant: str, aggregation: str, shrink_to: str, train: int) -> None:
    dynamics, curricula, features = planted(runs=4, steps=9, batch=3, train=train, tests=3)
    simulator = Simfluence(variant, aggregation, shrink_to, (0.3,))
    simulator.fit(dynamics, curricula, features)
    prior = 1.0 if shrink_to == "persistence" or variant == "additive" else 0.0
    a, b = by_normal_equations(dynamics, curricula.examples, train, variant, aggregation, prior, 0.3)
    np.testing.assert_allclose(simulator.factors.get("A", np.zeros_like(a)), a, atol=1e-9)
    np.testing.assert_allclose(simulator.factors.get("B", np.zeros_like(b)), b, atol=1e-9)
    assert set(simulator.factors) == {"linear": {"A", "B"}, "additive": {"B"}, "multiplicative": {"A"}}[variant]


def test_unseen_training_examples_change_nothing() -> None:
    dynamics, curricula, features = planted(train=24)
    wider = Features(np.zeros((30, 0)), features.test)
    simulator = Simfluence("linear", "mean", "persistence", (0.1,))
    simulator.fit(dynamics, curricula, wider)
    assert not simulator.factors["A"][24:].any() and not simulator.factors["B"][24:].any()
    first = dynamics.values[:1, :1]
    simulated = simulator.simulate(Curricula(np.full((1, 5, 2), 27)), first)
    np.testing.assert_array_equal(simulated, np.repeat(first, 6, axis=1))


def test_recovers_planted_influence_and_needs_the_curriculum() -> None:
    dynamics, curricula, features = planted(runs=24)
    dynamics, curricula, truth, fresh = split(dynamics, curricula, 4)
    simulator, mean = Simfluence("linear", "mean", "persistence", STRENGTHS), MeanCurve()
    for method in (simulator, mean):
        method.fit(dynamics, curricula, features)
    error = all_steps_mse(simulator.simulate(fresh, truth[:, :1]), truth, 1)
    baseline = all_steps_mse(mean.simulate(fresh, truth[:, :1]), truth, 1)
    shuffled = Curricula(np.random.default_rng(3).permutation(24)[fresh.examples])
    wrong = all_steps_mse(simulator.simulate(shuffled, truth[:, :1]), truth, 1)
    assert error < 0.05 * baseline
    assert wrong > 0.8 * baseline


def test_strength_is_chosen_on_validation_runs_alone() -> None:
    dynamics, curricula, features = planted()
    rng = np.random.default_rng(0)
    noisy = dynamics.values.copy()
    noisy[dynamics.validate] += 30 * rng.normal(size=noisy[dynamics.validate].shape)

    def fit(values: np.ndarray, strengths: tuple[float, ...]) -> Simfluence:
        simulator = Simfluence("linear", "mean", "persistence", strengths)
        simulator.fit(Dynamics(values, dynamics.validate), curricula, features)
        return simulator

    clean, other = fit(dynamics.values, (1e-4, 1e3)), fit(noisy, (1e-4, 1e3))
    assert clean.chosen["strength"] == 1e-4
    # Validation runs that are another process: the choice changes, what a strength fits does not.
    flat = dynamics.values.copy()
    flat[dynamics.validate] = flat[dynamics.validate][:, :1]
    assert fit(flat, (1e-4, 1e3)).chosen["strength"] == 1e3
    np.testing.assert_array_equal(fit(noisy, (1e-4,)).factors["A"], clean.factors["A"])
    assert other.chosen["strength"] in (1e-4, 1e3)


def test_metric_unit_does_not_matter() -> None:
    dynamics, curricula, features = planted()
    small, large = (Simfluence("linear", "sum", "persistence", STRENGTHS) for _ in range(2))
    small.fit(dynamics, curricula, features)
    large.fit(Dynamics(dynamics.values * 40, dynamics.validate), curricula, features)
    assert small.chosen["strength"] == large.chosen["strength"]
    np.testing.assert_allclose(large.factors["A"], small.factors["A"], atol=1e-9)
    np.testing.assert_allclose(large.factors["B"], 40 * small.factors["B"], atol=1e-8)


def test_metric_that_never_changes() -> None:
    _, curricula, features = planted()
    flat = Dynamics(np.zeros((16, 31, 7)), np.arange(16) >= 14)
    for variant in ("linear", "additive", "multiplicative"):
        simulator = Simfluence(variant, "mean", "persistence", STRENGTHS)
        simulator.fit(flat, curricula, features)
        assert not simulator.simulate(curricula, flat.values[:, :1]).any()
