from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from gptfluence.simulators.base import Curricula
from gptfluence.simulators.registry import make_method
from gptfluence.whatif import engines
from gptfluence.whatif.engines import Change, Engine, make_engine
from numpy.typing import NDArray
from synthetic import METHOD_SETTINGS, planted


def shares_of(engine: Engine, batches: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    return engine.shares(np.concatenate(batches), [len(batch) for batch in batches], 24)


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_runs_and_changed_runs_are_what_the_simulator_says(name: str) -> None:
    dynamics, curricula, features = planted(runs=6, steps=12)
    simulator = make_method(name, METHOD_SETTINGS[name])
    simulator.fit(dynamics, curricula, features)
    engine = make_engine(simulator)
    first = dynamics.values[0, : simulator.start]
    asked = curricula.of(np.array([0, 1, 4]))
    rates = np.full(12, 7e-4) if engine.knows_rates else asked.rates[0]
    asked = Curricula(asked.examples, np.tile(rates, (3, 1)))
    simulated = simulator.simulate(asked, np.repeat(first[None], 3, axis=0))

    run = engine.run(shares_of(engine, list(asked.examples[0])), rates, first)
    np.testing.assert_allclose(run.values, simulated[0], rtol=1e-9, atol=1e-10)
    # Others that differ in every step, and in none; the belief in a prediction is of all of it.
    changes = [Change(np.arange(12), shares_of(engine, list(other))) for other in asked.examples]
    np.testing.assert_allclose(run.changed(changes), simulated, rtol=1e-8, atol=1e-9)
    some = asked.examples[0].copy()
    some[[3, 8]] = asked.examples[1, [5, 2]]
    expected = simulator.simulate(Curricula(some[None], rates[None]), first[None])
    part = run.changed([Change(np.array([3, 8]), shares_of(engine, list(some[[3, 8]])))])
    np.testing.assert_allclose(part, expected, rtol=1e-8, atol=1e-9)


def test_long_runs_of_gradient_response_are_computed_anew_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics, curricula, features = planted(runs=6, steps=12)
    simulator = make_method("gradient_response", METHOD_SETTINGS["gradient_response"])
    simulator.fit(dynamics, curricula, features)
    engine = make_engine(simulator)
    run = engine.run(shares_of(engine, list(curricula.examples[0])), curricula.rates[0], dynamics.values[0, :1])
    change = Change(np.array([2, 7]), shares_of(engine, [np.array([1, 2, 3]), np.array([], np.int64)]))
    quick = run.changed([change])
    monkeypatch.setattr(engines, "MOST_PAIRS", 0)
    np.testing.assert_allclose(quick, run.changed([change]), rtol=1e-9)
    assert np.abs(quick[0] - run.values).max() > 1e-4


@pytest.mark.parametrize("name", ["simfluence", "gradient_response"])
def test_a_smaller_batch_is_a_batch(name: str) -> None:
    """A batch without an example is what simulators make of batches of that size."""
    dynamics, curricula, features = planted(runs=6, steps=12)
    simulator = make_method(name, METHOD_SETTINGS[name])
    simulator.fit(dynamics, curricula, features)
    engine = make_engine(simulator)
    smaller = curricula.examples[:1, :, :3]
    first = dynamics.values[0, :1]
    expected = simulator.simulate(Curricula(smaller, curricula.rates[:1]), first[None])[0]
    found = engine.run(shares_of(engine, list(smaller[0])), curricula.rates[0], first).values
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_stretches_of_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics, curricula, features = planted(runs=6, steps=12)
    simulator = make_method("gradient_response", METHOD_SETTINGS["gradient_response"])
    simulator.fit(dynamics, curricula, features)
    found = []
    for stretch in (75, 2):
        monkeypatch.setattr(engines, "STRETCH", stretch)
        engine = make_engine(simulator)
        run = engine.run(shares_of(engine, list(curricula.examples[0])), curricula.rates[0], dynamics.values[0, :1])
        batches = [np.array([1, 2, 3]), np.array([], np.int64), curricula.examples[0, 9]]
        found.append(run.changed([Change(np.array([2, 7, 9]), shares_of(engine, batches)),
                                  Change(np.array([], np.int64), np.zeros((0, 24)))]))  # fmt: skip
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
    np.testing.assert_allclose(found[0][1], run.values, rtol=1e-12)
    nothing = Change(np.array([], np.int64), np.zeros((0, 24)))
    np.testing.assert_allclose(run.changed([nothing] * 33), [run.values] * 33, rtol=1e-12)


def test_one_fitting_run_tells_no_variance_and_answers_all_the_same() -> None:
    dynamics, curricula, features = planted(runs=2, steps=12)
    simulator = make_method("gradient_response", METHOD_SETTINGS["gradient_response"])
    simulator.fit(replace(dynamics, validate=np.array([False, True])), curricula, features)
    engine, first = make_engine(simulator), dynamics.values[0, :1]
    run = engine.run(shares_of(engine, list(curricula.examples[0])), curricula.rates[0], first)
    found = run.changed([Change(np.arange(12), shares_of(engine, list(curricula.examples[1])))])
    expected = simulator.simulate(curricula.of(np.array([1])), first[None])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_rows_are_counted_before_they_are_made() -> None:
    """A share of step s meets the kernels of every checkpoint that is not past then."""
    dynamics, curricula, features = planted(runs=6, steps=12)
    simulator = make_method("gradient_response", METHOD_SETTINGS["gradient_response"])
    simulator.fit(dynamics, curricula, features)
    found = engines._ShareResponses(simulator, curricula.rates[0])
    assert engines._count_rows(simulator, 12) == len(found.pairs[0]) == found.replicas[0].shape[1]
