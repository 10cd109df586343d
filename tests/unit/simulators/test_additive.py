from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.simulators.additive import Additive
from gptfluence.simulators.base import Attribution, Curricula, Dynamics, Features
from gptfluence.simulators.data import load_group
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.fit import fit_simulator
from gptfluence.simulators.simfluence import Simfluence
from scipy.optimize import minimize_scalar
from score_tables import write_scores
from synthetic import chosen_runs, planted, write_group


def by_definition(curricula: Curricula, first: np.ndarray, scores: np.ndarray, tokens: np.ndarray, rate: float, scale):
    """Take one step after the other, one run and one test example at a time."""
    runs, steps, batch = curricula.examples.shape
    values = np.empty((runs, steps + 1, scores.shape[1]))
    values[:, :1] = first
    for r in range(runs):
        for t in range(1, steps + 1):
            members = curricula.examples[r, t - 1]
            total = sum(tokens[i] for i in members)
            for z in range(scores.shape[1]):
                change = sum(tokens[members[j]] / total * scores[members[j], z] for j in range(batch))
                values[r, t, z] = values[r, t - 1, z] - scale * rate * (1 - (t - 1) / steps) * change
    return values


def features_of(scores: np.ndarray, tokens: np.ndarray) -> Features:
    empty = np.zeros((len(scores), 0)), np.zeros((scores.shape[1], 0))
    return Features(*empty, Attribution({"tracin_cp": scores.astype(np.float32)}, tokens))


@pytest.mark.parametrize("scale", ["none", "fitted"])
def test_equals_its_definition(scale: str) -> None:
    dynamics, curricula, _ = planted(runs=5, steps=7, batch=3, train=9, tests=4)
    rng = np.random.default_rng(0)
    scores, tokens = rng.normal(size=(9, 4)).astype(np.float32), rng.integers(1, 30, 9)
    simulator = Additive("tracin_cp", scale)
    simulator.fit(dynamics, curricula, features_of(scores, tokens))
    first = dynamics.values[:, :1]
    expected = by_definition(curricula, first, scores, tokens, 1e-3, simulator.scale)
    np.testing.assert_allclose(simulator.simulate(curricula, first), expected, rtol=1e-12)
    assert (simulator.scale == 1) == (scale == "none")


def test_the_scale_has_the_least_squared_error_of_the_fitting_runs() -> None:
    dynamics, curricula, features = planted()
    simulator = Additive("grad_dot", "fitted")
    simulator.fit(dynamics, curricula, features)
    fitting = ~dynamics.validate
    measured, runs = dynamics.values[fitting], curricula.of(fitting)

    def error(scale: float) -> float:
        simulator.scale = scale
        return float(np.mean((simulator.simulate(runs, measured[:, :1]) - measured) ** 2))

    fitted = simulator.scale
    assert minimize_scalar(error).x == pytest.approx(fitted, rel=1e-5)
    assert error(fitted) < error(fitted * 0.99) and error(fitted) < error(fitted * 1.01)


def test_recovers_the_scale_of_dynamics_that_it_made_and_validation_runs_do_not_count() -> None:
    dynamics, curricula, features = planted()
    maker = Additive("grad_dot", "none")
    maker.fit(dynamics, curricula, features)
    maker.scale = -37.5
    made = maker.simulate(curricula, dynamics.values[:, :1])
    made[dynamics.validate] = 1e6
    simulator = Additive("grad_dot", "fitted")
    simulator.fit(Dynamics(made, dynamics.validate), curricula, features)
    assert simulator.scale == pytest.approx(-37.5)
    assert simulator.state()[1]["chosen"] == {"scale": simulator.scale}


def test_one_step_is_one_step_of_sgd() -> None:
    """For losses linear in the parameters a step's prediction is exact; batches weigh examples by their tokens."""
    rng = np.random.default_rng(2)
    train, tests = rng.normal(size=(6, 5)), rng.normal(size=(3, 5))  # gradients of the mean losses
    tokens, rate, batch = np.array([4, 1, 7, 2, 9, 3]), 0.05, [5, 2, 2]
    theta = rng.normal(size=5)
    before = tests @ theta
    gradient = sum(tokens[i] * train[i] for i in batch) / sum(tokens[i] for i in batch)
    after = tests @ (theta - rate * gradient)
    simulator = Additive("tracin_cp", "none")
    curricula = Curricula(np.array([[batch]]), np.array([[rate]]))
    dynamics = Dynamics(np.zeros((1, 2, 3)), np.array([False]))
    simulator.fit(dynamics, curricula, features_of(train @ tests.T, tokens))
    np.testing.assert_allclose(simulator.simulate(curricula, before[None, None])[0, 1], after, rtol=1e-5)


def test_with_equal_weights_it_is_simfluence_additive_with_given_factors() -> None:
    """One step, so that there is no decay; equal tokens, so that a batch is a mean."""
    dynamics, curricula, features = planted(steps=1)
    assert features.attribution is not None
    scores = features.attribution.scores["grad_dot"]
    simulator = Additive("grad_dot", "none")
    same = replace(features.attribution, tokens=np.full(len(scores), 5))
    curricula = Curricula(curricula.examples)  # at a rate of 1
    simulator.fit(dynamics, curricula, replace(features, attribution=same))
    settings = {"variant": "additive", "aggregation": "mean", "shrink_to": "persistence", "strengths": (1.0,)}
    arrays = {"B": -scores.astype(float), "extent": simulator.extent}
    other = Simfluence.from_state(arrays, {"settings": settings, "chosen": {"strength": 1.0}})
    first = dynamics.values[:, :1]
    np.testing.assert_allclose(simulator.simulate(curricula, first), other.simulate(curricula, first), rtol=1e-12)


@pytest.mark.parametrize("factor", [0.0, 1e-38, 1e38])
def test_scores_of_any_size_give_finite_simulations(factor: float) -> None:
    dynamics, curricula, features = planted()
    assert features.attribution is not None
    scores = np.float32(factor) * np.sign(features.attribution.scores["grad_dot"])
    simulator = Additive("grad_dot", "fitted")
    attribution = replace(features.attribution, scores={"grad_dot": scores})
    simulator.fit(dynamics, curricula, replace(features, attribution=attribution))
    simulated = simulator.simulate(curricula, dynamics.values[:, :1])
    assert np.isfinite(simulated).all()
    assert np.isfinite(simulator.scale) and (simulator.scale == 0) == (factor == 0)


def test_a_group_with_its_table(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    data = load_group(spec)
    assert data.features.attribution is not None
    fit = chosen_runs(spec, "fit", "validate") | {"method": "grad_dot"}
    fit["settings"] = {"kind": "additive", "scores": "grad_dot", "scale": "none"}
    fit_simulator(fit, tmp_path / "s.safetensors")
    simulator, _ = load_simulator(tmp_path / "s.safetensors")
    first = data.dynamics.values[:, :1]
    table = data.features.attribution
    expected = by_definition(data.curricula, first, table.scores["grad_dot"], table.tokens, 1e-2, 1.0)
    np.testing.assert_allclose(simulator.simulate(data.curricula, first), expected, rtol=1e-12)


def test_a_metric_of_some_tasks_reads_their_columns(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    whole, one = load_group(spec), load_group(spec | {"test_tasks": ["a_task"]})
    assert whole.features.attribution is not None and one.features.attribution is not None
    scores = whole.features.attribution.scores["grad_dot"]
    np.testing.assert_array_equal(one.features.attribution.scores["grad_dot"], scores[:, 3:])


def test_without_a_table_or_the_method(tmp_path: Path) -> None:
    spec = chosen_runs(write_group(tmp_path), "fit", "validate") | {"method": "mine"}

    def fit(scores: str, **changes) -> None:
        settings = {"kind": "additive", "scores": scores, "scale": "none"}
        fit_simulator(spec | {"settings": settings} | changes, tmp_path / "s.safetensors")

    with pytest.raises(UserError, match="no attribution scores to read grad_dot from"):
        fit("grad_dot", table=None)
    with pytest.raises(UserError, match=r"no method 'grad_dott' \(did you mean 'grad_dot'\?\)"):
        fit("grad_dott")
    with pytest.raises(UserError, match="missing"):
        fit("grad_dot", table=str(tmp_path / "no.parquet"))


def test_a_table_of_another_plan_or_that_is_not_finite_is_named(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    scores, tasks = np.zeros((12, 5)), (spec["train_tasks"], spec["test_tasks"])
    for name, other in {"train": scores[:10], "test": scores[:, :4]}.items():
        table = write_scores(tmp_path / f"{name}.parquet", *tasks, {"less": other}, np.ones(len(other)))
        with pytest.raises(UserError, match=rf"{name}\.parquet: does not hold values of the 12 training and 5 test"):
            load_group(spec | {"table": table})
    scores[7, 4] = np.nan
    wrong = write_scores(tmp_path / "wrong.parquet", *tasks, {"less": scores}, np.ones(12))
    with pytest.raises(UserError, match="less of training example 7 and test example 4 is nan"):
        load_group(spec | {"table": wrong})
