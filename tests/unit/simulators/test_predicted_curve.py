from dataclasses import replace

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features
from gptfluence.simulators.predicted_curve import PredictedCurve
from gptfluence.simulators.responses import Responses
from synthetic import planted

STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0, 100.0)
SETTINGS = {"kernels": ("sgd",), "momenta": (0.0, 0.9), "decays": (1.0, 0.7), "strengths": STRENGTHS}


def fit(made: tuple[Dynamics, Curricula, Features], settings: dict = SETTINGS) -> PredictedCurve:
    simulator = PredictedCurve(**settings)
    simulator.fit(*made)
    return simulator


def test_measured_tests_have_their_mean_curve() -> None:
    dynamics, curricula, features = planted(runs=6)
    first = dynamics.values[:, :1]
    simulated = fit((dynamics, curricula, features)).simulate(curricula, first)
    np.testing.assert_allclose(simulated[2, 1:], dynamics.values[~dynamics.validate].mean(axis=0)[1:])
    np.testing.assert_array_equal(simulated[:, :1], first)


def known(curricula: Curricula, features: Features, runs: np.ndarray, first: Array) -> Array:
    """Return what is known of tests before any run, step by step: [steps, tests, columns]."""
    assert features.kernels is not None
    responses = Responses(features.kernels.only(("sgd",)), SETTINGS["momenta"], SETTINGS["decays"])
    shares = sum(responses.shares(curricula, run) for run in runs) / len(runs)
    rates = curricula.rates[runs].mean(axis=0)
    columns = [*np.moveaxis(responses.of(shares, rates), 2, 0)]
    columns.append(np.array([first * rates[: t + 1].sum() / rates.sum() for t in range(len(rates))]))
    return np.stack(columns, axis=-1)


def test_a_hidden_test_equals_ridge_by_normal_equations() -> None:
    """Fitted on all tests but one, whose curve it then predicts; the strength by leaving out each of the others."""
    dynamics, curricula, features = planted(runs=7, steps=9, batch=3, train=10, tests=6)
    features = replace(features, test_task=np.zeros(6, np.int64))
    seen, hidden = np.arange(5), np.array([5])
    part = replace(dynamics, values=dynamics.values[..., seen])
    simulator = fit((part, curricula, features.of_tests(seen)))
    first = dynamics.values[0, 0]
    other = simulator.transfer(features.of_tests(hidden), first[hidden])

    runs = np.flatnonzero(~dynamics.validate)
    x = known(curricula, features, runs, first)
    moved = dynamics.values[:, 1:] - dynamics.values[:, :1]
    y, checks = moved[runs].mean(axis=0), moved[dynamics.validate].mean(axis=0)

    def predict(of: np.ndarray, at: int, strength: float) -> Array:
        a, b = x[:, of] - x[:, of].mean(axis=1, keepdims=True), y[:, of] - y[:, of].mean(axis=1, keepdims=True)
        a, b = a.reshape(-1, a.shape[-1]), b.ravel()
        scale, height = np.sqrt((a**2).mean(axis=0)), np.sqrt((b**2).mean())
        gram = (a / scale).T @ (a / scale) / len(a) + strength * np.eye(a.shape[1])
        weights = np.linalg.solve(gram, (a / scale).T @ b / height / len(a)) * height / scale
        return y[:, of].mean(axis=1) + (x[:, at] - x[:, of].mean(axis=1)) @ weights

    errors = [sum(np.sum((predict(np.delete(seen, z), z, s) - checks[:, z]) ** 2) for z in seen) for s in STRENGTHS]
    best = STRENGTHS[int(np.argmin(errors))]
    assert simulator.chosen.tolist() == [best]
    expected = first[5] + np.concatenate([[0.0], predict(seen, 5, best)])
    np.testing.assert_allclose(other.curve[:, 0], expected, rtol=1e-6)


def test_beats_the_mean_of_the_other_tests() -> None:
    """Where tests move as their kernels say, a hidden test's curve is nearer than the others' mean is."""
    dynamics, curricula, features = planted(runs=12, tests=24)
    features = replace(features, test_task=np.zeros(24, np.int64))
    seen, hidden = np.arange(18), np.arange(18, 24)
    part = replace(dynamics, values=dynamics.values[..., seen])
    first = dynamics.values[0, 0]
    other = fit((part, curricula, features.of_tests(seen))).transfer(features.of_tests(hidden), first[hidden])
    truth = dynamics.values.mean(axis=0)
    mean = first[hidden] + (truth - truth[0])[:, seen].mean(axis=1)[:, None]
    assert np.mean((other.curve - truth[:, hidden]) ** 2) < 0.5 * np.mean((mean - truth[:, hidden]) ** 2)


def test_one_measured_test_gives_its_drift_to_the_others() -> None:
    dynamics, curricula, features = planted(runs=5, tests=3)
    features = replace(features, test_task=np.zeros(3, np.int64))
    part = replace(dynamics, values=dynamics.values[..., :1])
    first = dynamics.values[0, 0, 1:]
    simulator = fit((part, curricula, features.of_tests(np.array([0]))))
    other = simulator.transfer(features.of_tests(np.array([1, 2])), first)
    drift = simulator.curve[:, 0] - simulator.curve[0, 0]
    np.testing.assert_allclose(other.curve, first + drift[:, None])


def test_without_kernels() -> None:
    dynamics, curricula, features = planted(runs=5)
    with pytest.raises(UserError, match="predicted_curve: there are no gradient kernels"):
        fit((dynamics, curricula, replace(features, kernels=None)))
