import numpy as np
import pytest
from gptfluence.simulators.base import Curricula
from gptfluence.simulators.registry import make_method
from gptfluence.whatif import engines
from gptfluence.whatif.engines import Change, make_engine
from synthetic import METHOD_SETTINGS, planted


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

    run = engine.run(engine.shares(list(asked.examples[0]), 24), rates, first)
    np.testing.assert_allclose(run.values, simulated[0], rtol=1e-9, atol=1e-10)
    # Others that differ in every step, and in none; the belief in a prediction is of all of it.
    changes = [Change(np.arange(12), engine.shares(list(other), 24)) for other in asked.examples]
    np.testing.assert_allclose(run.changed(changes), simulated, rtol=1e-8, atol=1e-9)
    some = asked.examples[0].copy()
    some[[3, 8]] = asked.examples[1, [5, 2]]
    expected = simulator.simulate(Curricula(some[None], rates[None]), first[None])
    part = run.changed([Change(np.array([3, 8]), engine.shares(list(some[[3, 8]]), 24))])
    np.testing.assert_allclose(part, expected, rtol=1e-8, atol=1e-9)


def test_long_runs_of_gradient_response_are_computed_anew_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamics, curricula, features = planted(runs=6, steps=12)
    simulator = make_method("gradient_response", METHOD_SETTINGS["gradient_response"])
    simulator.fit(dynamics, curricula, features)
    engine = make_engine(simulator)
    run = engine.run(engine.shares(list(curricula.examples[0]), 24), curricula.rates[0], dynamics.values[0, :1])
    change = Change(np.array([2, 7]), engine.shares([np.array([1, 2, 3]), np.array([], np.int64)], 24))
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
    found = engine.run(engine.shares(list(smaller[0]), 24), curricula.rates[0], first).values
    np.testing.assert_allclose(found, expected, rtol=1e-9)
