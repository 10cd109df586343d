import numpy as np
import pytest
from gptfluence.baselines.trivial import MeanCurve
from gptfluence.errors import UserError
from gptfluence.simulators.base import UNBOUNDED, Curricula, Dynamics, Features
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.rollout import all_steps_mse, roll_out
from gptfluence.simulators.simfluence import Simfluence
from synthetic import STRENGTHS, planted, split


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
@pytest.mark.parametrize("shrink_to", ["persistence", "zero"])
@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_one_hot_features_give_simfluence(aggregation: str, shrink_to: str, strength: float) -> None:
    dynamics, curricula, _ = planted(runs=6, steps=20, tests=4)
    features = Features(np.eye(24), np.eye(4))
    bilinear = Bilinear(1, "given", aggregation, shrink_to, (strength,))
    simfluence = Simfluence("linear", aggregation, shrink_to, (strength,))
    for simulator in (bilinear, simfluence):
        simulator.fit(dynamics, curricula, features)
    a, b = (bilinear.train @ matrix @ bilinear.test.T for matrix in bilinear.matrices)
    np.testing.assert_allclose(a, simfluence.factors["A"], atol=1e-6 * np.abs(simfluence.factors["A"]).max())
    np.testing.assert_allclose(b, simfluence.factors["B"], atol=1e-6 * np.abs(simfluence.factors["B"]).max())


@pytest.mark.parametrize(("order", "start"), [(1, "given"), (2, "given"), (2, "zeros"), (3, "zeros")])
@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_equals_explicit_kronecker_ridge(order: int, start: str, strength: float) -> None:
    dynamics, curricula, features = planted(runs=5, steps=8, train=9, tests=4)
    dynamics.values[:, 1:] += 0.05 * np.random.default_rng(1).normal(size=dynamics.values[:, 1:].shape)
    simulator = Bilinear(order, start, "sum", "persistence", (strength,))
    simulator.fit(dynamics, curricula, features)

    given = order if start == "given" else 1
    assert simulator.start == given
    fitting = ~dynamics.validate
    scale = dynamics.values[fitting].std()
    y = dynamics.values[fitting] / scale
    h = features.train / np.sqrt((features.train**2).sum(axis=1).mean())
    g = features.test / np.sqrt((features.test**2).sum(axis=1).mean())
    design, target = [], []
    for run, batches in zip(y, curricula.examples[fitting], strict=True):
        for t in range(given, run.shape[0]):
            x = h[batches[t - 1]].sum(axis=0)
            for z in range(run.shape[1]):
                past = [run[t - j, z] if t >= j else 0.0 for j in range(1, order + 1)]
                design.append(np.kron([*past, 1.0], np.kron(x, g[z])))
                target.append(run[t, z] - past[0])
    d = np.array(design)
    solved = np.linalg.solve(d.T @ d + strength * np.eye(d.shape[1]), d.T @ np.array(target))
    matrices = solved.reshape(order + 1, 6, 6)
    factors = np.stack([h @ matrix @ g.T for matrix in matrices])
    found = np.stack([simulator.train @ matrix @ simulator.test.T for matrix in simulator.matrices])
    found[-1] /= scale
    np.testing.assert_allclose(found, factors, atol=1e-6 * np.abs(factors).max())

    held = curricula.examples[dynamics.validate]
    steps = factors[:, held].sum(axis=3)  # [order + 1, runs, steps, tests]
    steps[0] += 1
    first = dynamics.values[dynamics.validate][:, :given]
    by_hand = roll_out(steps[:-1], steps[-1] * scale, first)
    simulator.extent = UNBOUNDED  # a weak strength explodes
    np.testing.assert_allclose(simulator.simulate(Curricula(held), first), by_hand, rtol=1e-5)


def test_what_is_chosen_among_strengths_is_as_exact_as_alone() -> None:
    dynamics, curricula, features = planted(runs=8, steps=10, tests=5)
    dynamics.values[:, 1:] += 0.05 * np.random.default_rng(1).normal(size=dynamics.values[:, 1:].shape)
    among = Bilinear(2, "given", "mean", "persistence", STRENGTHS)
    among.fit(dynamics, curricula, features)
    alone = Bilinear(2, "given", "mean", "persistence", (among.chosen["strength"],))
    alone.fit(dynamics, curricula, features)
    np.testing.assert_allclose(among.matrices, alone.matrices, atol=1e-6 * np.abs(alone.matrices).max())


def test_more_features_than_examples() -> None:
    dynamics, curricula, _ = planted(runs=5, steps=8, train=9, tests=4)
    rng = np.random.default_rng(0)
    wide = Features(rng.normal(size=(9, 50)), rng.normal(size=(4, 50)))
    rotation = np.linalg.qr(rng.normal(size=(50, 50)))[0]
    turned = Features(wide.train @ rotation, wide.test @ rotation)
    first, second = (Bilinear(1, "given", "mean", "persistence", (0.01,)) for _ in range(2))
    first.fit(dynamics, curricula, wide)
    second.fit(dynamics, curricula, turned)
    assert first.matrices.shape[1] <= 9 and first.matrices.shape[2] == 4
    start = dynamics.values[:, :1]
    np.testing.assert_allclose(first.simulate(curricula, start), second.simulate(curricula, start), rtol=1e-6)


def test_recovers_planted_influence_for_unseen_examples_too() -> None:
    dynamics, curricula, features = planted(runs=20, train=40)
    # The first four runs draw from examples that no other run has.
    rng = np.random.default_rng(5)
    curricula.examples[4:] = rng.integers(0, 30, curricula.examples[4:].shape)
    curricula.examples[:4] = rng.integers(30, 40, curricula.examples[:4].shape)
    a, b = 0.003 * rng.normal(size=(6, 6)), 0.02 * rng.normal(size=(6, 6))
    factors = [features.train @ m @ features.test.T for m in (a, b)]
    alpha, beta = (f[curricula.examples].mean(axis=2) for f in factors)
    values = roll_out(1 + alpha[None], beta, dynamics.values[:, :1])
    dynamics, curricula, truth, fresh = split(Dynamics(values, dynamics.validate), curricula, 4)
    simulator, mean = Bilinear(1, "given", "mean", "persistence", STRENGTHS), MeanCurve()
    for method in (simulator, mean):
        method.fit(dynamics, curricula, features)
    error = all_steps_mse(simulator.simulate(fresh, truth[:, :1]), truth, 1)
    baseline = all_steps_mse(mean.simulate(fresh, truth[:, :1]), truth, 1)
    shuffled = Curricula(rng.permutation(40)[fresh.examples])
    wrong = all_steps_mse(simulator.simulate(shuffled, truth[:, :1]), truth, 1)
    assert error < 0.01 * baseline
    assert wrong > 20 * error


def test_strength_depends_on_validation_runs() -> None:
    dynamics, curricula, features = planted()
    simulator = Bilinear(1, "given", "mean", "persistence", (1e-4, 1e4))
    simulator.fit(dynamics, curricula, features)
    assert simulator.chosen["strength"] == 1e-4
    flat = dynamics.values.copy()
    flat[dynamics.validate] = flat[dynamics.validate][:, :1]
    simulator.fit(Dynamics(flat, dynamics.validate), curricula, features)
    assert simulator.chosen["strength"] == 1e4


def test_constant_metric_and_missing_features() -> None:
    _, curricula, features = planted()
    flat = Dynamics(np.zeros((16, 31, 7)), np.arange(16) >= 14)
    simulator = Bilinear(2, "zeros", "mean", "persistence", STRENGTHS)
    simulator.fit(flat, curricula, features)
    assert not simulator.simulate(curricula, flat.values[:, :1]).any()
    with pytest.raises(UserError, match="features"):
        simulator.fit(flat, curricula, Features(np.zeros((24, 0)), np.zeros((7, 0))))
