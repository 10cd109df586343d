from dataclasses import replace

import numpy as np
import pytest
from gptfluence.simulators.base import UNBOUNDED, Dynamics
from gptfluence.simulators.registry import make_method
from gptfluence.simulators.rollout import (
    aggregate,
    all_steps_mse,
    bounds,
    confine,
    counts,
    extent_of,
    lagged,
    metric_scale,
    roll_out,
    unit_length,
    validation_mse,
    warn_of_confined,
)
from synthetic import ADAM, METHOD_SETTINGS, planted


@pytest.mark.parametrize(("order", "start"), [(1, 1), (2, 2), (3, 3), (3, 1), (2, 1)])
def test_equals_naive_loops(order: int, start: int) -> None:
    rng = np.random.default_rng(0)
    runs, steps, tests = 3, 9, 4
    alpha = rng.normal(scale=0.6, size=(order, runs, steps, tests))
    beta = rng.normal(size=(runs, steps, tests))
    first = rng.normal(size=(runs, start, tests))
    found = roll_out(alpha, beta, first)
    for r in range(runs):
        for z in range(tests):
            history = [0.0] * (order - start) + list(first[r, :, z])  # oldest first
            for t in range(start, steps + 1):
                value = beta[r, t - 1, z]
                for j in range(1, order + 1):
                    value += alpha[j - 1, r, t - 1, z] * (history[-j] if j <= len(history) else 0.0)
                history.append(value)
            np.testing.assert_allclose(found[r, :, z], history[max(order - start, 0) :], rtol=0, atol=1e-10)


def test_an_unbounded_explosion_is_inf_without_warnings() -> None:
    found = roll_out(np.full((1, 1, 400, 1), 1e3), np.zeros((1, 400, 1)), np.ones((1, 1, 1)))
    assert np.isinf(found[0, -1, 0])
    assert all_steps_mse(found, np.ones_like(found), 1) == np.inf
    assert all_steps_mse(found * np.nan, np.ones_like(found), 1) == np.inf


def test_bounds_by_hand() -> None:
    first = np.array([[[2.0, -1.0, 9.0]], [[5.0, 3.0, 3.0]]])
    low, high = bounds(np.array([1.0, 4.0]), first)
    np.testing.assert_array_equal(low, [[0, -4, 0], [0, 0, 0]])  # what was never negative does not become so
    np.testing.assert_array_equal(high, [[7, 7, 12], [8, 7, 7]])
    low, high = bounds(np.array([4.0, 4.0]), first)  # a metric that never changed
    np.testing.assert_array_equal(low, [[1, -2, 3], [3, 2, 2]])
    np.testing.assert_array_equal(high, [[5, 5, 10], [6, 5, 5]])
    low, _ = bounds(np.array([-1.0, 4.0]), first)
    np.testing.assert_array_equal(low, [[-6, -6, -6], [-6, -6, -6]])
    assert extent_of(Dynamics(np.array([[[1.0], [2.0]], [[9.0], [9.0]]]), np.array([False, True]))).tolist() == [1, 2]


@pytest.mark.parametrize("order", [1, 2, 3, 5, 10])
def test_a_roll_out_goes_on_from_its_bounds(order: int) -> None:
    rng = np.random.default_rng(0)
    runs, steps, tests = 2, 20, 3
    alpha = rng.normal(scale=2, size=(order, runs, steps, tests))
    beta, first = rng.normal(size=(runs, steps, tests)), rng.uniform(0, 1, (runs, order, tests))
    found = roll_out(alpha, beta, first, np.array([-0.5, 1.0]))
    expected = first.copy()
    for t in range(order, steps + 1):
        now = beta[:, t - 1] + sum(alpha[j, :, t - 1] * expected[:, t - 1 - j] for j in range(order))
        expected = np.concatenate([expected, np.clip(now, -2, 2.5)[:, None]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert {-2.0, 2.5} < set(found.ravel())


def test_bounds_that_are_not_reached_change_no_bit() -> None:
    rng = np.random.default_rng(0)
    alpha, beta = rng.normal(scale=0.4, size=(3, 4, 50, 5)), rng.normal(size=(4, 50, 5))
    first = rng.normal(size=(4, 3, 5))
    free = roll_out(alpha, beta, first)
    extent = np.array([free.min(), free.max()])
    np.testing.assert_array_equal(roll_out(alpha, beta, first, extent), free)
    np.testing.assert_array_equal(confine(free.copy(), 3, extent), free)


def test_coefficients_beyond_float64_give_a_bound() -> None:
    alpha = np.array([1e308, -1e308]).reshape(2, 1, 1, 1) * np.ones((2, 1, 6, 1))
    found = roll_out(alpha, np.zeros((1, 6, 1)), np.full((1, 2, 1), 50.0), np.array([0.0, 100.0]))
    assert np.isfinite(found).all() and found.max() <= 200


PUBLISHED = {"aggregation": "sum", "shrink_to": "zero"}
FORMS = {
    **{f"simfluence {variant}": {"kind": "simfluence", "variant": variant, **PUBLISHED}
       for variant in ("linear", "additive", "multiplicative")},
    **{f"gptfluence {order} {start}":
       {"kind": "gptfluence", "head": "bilinear", "order": order, "start": start, **PUBLISHED}
       for order in (1, 2, 3, 5, 10) for start in ("given", "zeros")},
    "gradient_response": METHOD_SETTINGS["gradient_response"],
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("strength", [1e-300, 1e-9, 1e-3, 1.0, 1e9])
@pytest.mark.parametrize("form", FORMS)
def test_no_strength_explodes(form: str, strength: float) -> None:
    """Three fitting runs, far more factors than steps, noise, and curricula that none of them had."""
    dynamics, curricula, features = planted(runs=5, steps=25, train=40)
    values = dynamics.values + 0.1 * np.random.default_rng(1).normal(size=dynamics.values.shape)
    simulator = make_method(form, FORMS[form] | {"strengths": (strength,)})
    simulator.fit(replace(dynamics, values=values), curricula, features)
    fresh = replace(curricula, examples=np.random.default_rng(2).integers(0, 40, curricula.examples.shape))
    first = values[:, : simulator.start]
    simulated = simulator.simulate(fresh, first)
    fitted = values[~dynamics.validate]
    reach = np.ptp(fitted)
    low, high = np.minimum(first.min(axis=1), fitted.min()), np.maximum(first.max(axis=1), fitted.max()) + reach
    low = np.where(low < 0, low - reach, np.maximum(low - reach, 0))[:, None]
    assert (simulated >= low).all() and (simulated <= high[:, None]).all()
    simulator.extent = UNBOUNDED
    free = simulator.simulate(fresh, first)
    kept = ((free > low) & (free < high[:, None])).all(axis=1)
    np.testing.assert_array_equal(np.where(kept[:, None], simulated, 0), np.where(kept[:, None], free, 0))


def test_a_mlp_that_explodes_is_confined() -> None:
    """Without a step of training: the networks are as they were drawn."""
    dynamics, curricula, features = planted(runs=5)
    settings = METHOD_SETTINGS["gptfluence_mlp"] | {"aggregation": "sum", "adam": ADAM | {"epochs": 0, "seed": 3}}
    simulator = make_method("mlp", settings)
    simulator.fit(dynamics, curricula, features)
    simulated = simulator.simulate(curricula, dynamics.values[:, :1])
    simulator.extent = UNBOUNDED
    assert np.abs(simulator.simulate(curricula, dynamics.values[:, :1])).max() > 1e3
    assert np.abs(simulated).max() < 3 * np.abs(dynamics.values).max()


@pytest.mark.parametrize("method", ["grad_dot", "gradient_response"])
def test_sums_are_confined_too(method: str) -> None:
    """Learning rates a million times those of the fit."""
    dynamics, curricula, features = planted(runs=8)
    simulator = make_method(method, METHOD_SETTINGS[method])
    simulator.fit(dynamics, curricula, features)
    simulated = simulator.simulate(replace(curricula, rates=1e6 * curricula.rates), dynamics.values[:, :1])
    low, high = bounds(extent_of(dynamics), dynamics.values[:, :1])
    assert (simulated == low[:, None]).any() and (simulated == high[:, None]).any()
    assert (simulated >= low[:, None]).all() and (simulated <= high[:, None]).all()
    np.testing.assert_array_equal(simulated[:, :1], dynamics.values[:, :1])


@pytest.mark.parametrize("method", ["gptfluence", "gradient_response", "predicted_curve"])
def test_what_is_transferred_is_confined_by_the_fitting_runs(method: str) -> None:
    """To tests whose features and gradients are a million times as large."""
    dynamics, curricula, features = planted(runs=8)
    simulator = make_method(method, METHOD_SETTINGS[method])
    simulator.fit(dynamics, curricula, features)
    assert features.kernels is not None
    kernels = replace(features.kernels, values={name: 1e6 * k for name, k in features.kernels.values.items()})
    first = dynamics.values[:, : simulator.start]
    other = simulator.transfer(replace(features, test=1e6 * features.test, kernels=kernels), first[0, 0])
    assert other is not None
    simulated = other.simulate(curricula, first)
    low, high = bounds(extent_of(dynamics), first)
    assert (simulated >= low[:, None]).all() and (simulated <= high[:, None]).all()
    assert (simulated == low[:, None]).any() or (simulated == high[:, None]).any()


def test_it_is_said_how_many_were_confined(caplog: pytest.LogCaptureFixture) -> None:
    simulator = make_method("global_ar1", {"kind": "global_ar1"})
    simulator.extent = np.array([-0.5, 0.5])
    simulated = np.full((2, 4, 3), 0.5)
    warn_of_confined(simulator, simulated, "g loss mine")
    assert not caplog.text
    simulated[0, 2, 1], simulated[0, 3, 1], simulated[1, 3, 0] = 1.5, 1.5, -1.5
    warn_of_confined(simulator, simulated, "g loss mine")
    assert "g loss mine: 2 of 6 roll-outs went farther" in caplog.text
    caplog.clear()
    simulator.extent = np.array([0.0, 1.0])
    warn_of_confined(simulator, np.zeros((1, 4, 1)), "g bleu mine")  # as a metric may be
    assert not caplog.text
    simulator.extent = np.array([0.5, 5.0])
    warn_of_confined(simulator, np.array([[[1.0], [0.0]]]), "g loss mine")  # as no fitting run was
    assert "g loss mine: 1 of 1 roll-outs" in caplog.text
    caplog.clear()
    first = np.full((1, 1, 1), 7.0)  # given, and kept
    warn_of_confined(simulator, np.repeat(first, 5, axis=1), "g loss mine")
    assert not caplog.text


def test_a_fit_that_does_not_explode_is_chosen_though_confining_would_hide_it() -> None:
    """Strengths are compared by what the roll-outs are without bounds."""
    dynamics, curricula, features = planted(runs=5, steps=25, train=40)
    settings = FORMS["gptfluence 3 given"]
    errors = []
    for strength in (1e-3, 1.0, 1e3):
        simulator = make_method("one", settings | {"strengths": (strength,)})
        simulator.fit(dynamics, curricula, features)
        simulator.extent = UNBOUNDED
        errors.append(validation_mse(simulator, dynamics, curricula))
    simulator = make_method("all", settings | {"strengths": (1e-3, 1.0, 1e3)})
    simulator.fit(dynamics, curricula, features)
    assert simulator.chosen["strength"] == (1e-3, 1.0, 1e3)[int(np.argmin(errors))]
    assert max(errors) > 1e6 * min(errors)


@pytest.mark.parametrize("method", ["simfluence", "gptfluence", "gptfluence_mlp"])
def test_bounds_of_a_former_fit_choose_nothing(method: str) -> None:
    dynamics, curricula, features = planted(runs=5, steps=25, train=40)
    noise = np.random.default_rng(1).normal(size=dynamics.values.shape)
    dynamics = replace(dynamics, values=dynamics.values + 0.3 * noise)
    settings = METHOD_SETTINGS[method] | (
        {"adam": ADAM | {"learning_rates": (1e-3, 1e-2), "epochs": 60}} if "mlp" in method else {}
    )
    again, fresh = make_method(method, settings), make_method(method, settings)
    again.fit(replace(dynamics, values=1e-9 * dynamics.values), curricula, features)
    for simulator in (again, fresh):
        simulator.fit(dynamics, curricula, features)
    assert again.state()[1] == fresh.state()[1]


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_counts_and_aggregate_agree_by_hand(aggregation: str) -> None:
    examples = np.array([[[0, 2], [1, 1]], [[2, 2], [0, 1]]])
    table = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    by_hand = np.array([[[1, 0, 1], [0, 2, 0]], [[0, 0, 2], [1, 1, 0]]]) / (2 if aggregation == "mean" else 1)
    np.testing.assert_array_equal(counts(examples, 3, aggregation), by_hand)
    np.testing.assert_allclose(aggregate(table, examples, aggregation), by_hand @ table)


def test_lags() -> None:
    values = np.arange(1.0, 6.0).reshape(1, 5, 1)  # m_0 .. m_4 = 1 .. 5
    one, two = (lag[0, :, 0] for lag in lagged(values, 2, 1))
    assert list(one) == [1, 2, 3, 4]
    assert list(two) == [0, 1, 2, 3]
    one, two = (lag[0, :, 0] for lag in lagged(values, 2, 2))
    assert list(one) == [2, 3, 4]
    assert list(two) == [1, 2, 3]


def test_all_steps_mse_ignores_given_steps() -> None:
    measured = np.zeros((1, 4, 1))
    simulated = np.array([9.0, 9.0, 1.0, 3.0]).reshape(1, 4, 1)
    assert all_steps_mse(simulated, measured, 2) == 5.0


def test_scales() -> None:
    values = np.array([1.0, 3.0, 100.0, 200.0]).reshape(2, 2, 1)
    assert metric_scale(Dynamics(values, np.array([False, True]))) == 1.0
    assert metric_scale(Dynamics(np.zeros((2, 2, 1)), np.array([False, True]))) == 1.0
    rows = np.array([[3.0, 4.0], [0.0, 5.0]])
    np.testing.assert_allclose(unit_length(rows, rows), rows / 5)
    np.testing.assert_array_equal(unit_length(np.eye(3), np.eye(3)), np.eye(3))
