from typing import Any

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.simulators.base import Curricula, Dynamics
from gptfluence.simulators.interval import Interval
from gptfluence.simulators.registry import make_method
from gptfluence.simulators.rollout import all_steps_mse
from synthetic import RIDGE, planted, split

GPTFLUENCE = {"kind": "gptfluence", "head": "bilinear", "order": 1, "start": "given", **RIDGE}
SIMFLUENCE = {"kind": "simfluence", "variant": "linear", **RIDGE}


def every(interval: int, between: str = "jump", **changes: Any) -> Interval:
    simulator = make_method("m", GPTFLUENCE | {"interval": interval, "between": between} | changes)
    assert isinstance(simulator, Interval)
    return simulator


@pytest.mark.parametrize("settings", [GPTFLUENCE, SIMFLUENCE])
def test_an_interval_of_one_is_the_simulator_itself(settings: dict[str, Any]) -> None:
    dynamics, curricula, features = planted()
    fresh = dynamics.values[:3, :1]
    simulated = []
    for simulator in (make_method("m", settings), Interval(lambda: make_method("m", settings), 1, "jump"),
                      Interval(lambda: make_method("m", settings), 1, "hold")):  # fmt: skip
        simulator.fit(dynamics, curricula, features)
        simulated.append(simulator.simulate(curricula.of(np.arange(3)), fresh))
    np.testing.assert_array_equal(simulated[1], simulated[0])
    np.testing.assert_array_equal(simulated[2], simulated[0])


@pytest.mark.parametrize("interval", [2, 3, 5, 10, 15])
def test_jumps_equal_the_simulator_of_merged_steps(interval: int) -> None:
    dynamics, curricula, features = planted(steps=30)
    simulator = every(interval)
    simulator.fit(dynamics, curricula, features)
    points = Dynamics(dynamics.values[:, ::interval], dynamics.validate)
    merged = Curricula(np.stack([
        [np.concatenate(run[i : i + interval]) for i in range(0, 30, interval)] for run in curricula.examples
    ]))  # fmt: skip
    by_hand = make_method("m", GPTFLUENCE)
    by_hand.fit(points, merged, features)
    some = np.arange(4)
    found = simulator.simulate(curricula.of(some), dynamics.values[:4, :1])
    expected = by_hand.simulate(merged.of(some), dynamics.values[:4, :1])
    np.testing.assert_allclose(found[:, ::interval], expected, rtol=1e-12)
    lines = np.stack([[np.interp(np.arange(31), np.arange(0, 31, interval), run[:, z]) for z in range(7)]
                      for run in expected])  # fmt: skip
    np.testing.assert_allclose(found, lines.swapaxes(1, 2), rtol=1e-9)


def test_only_known_steps_are_read() -> None:
    dynamics, curricula, features = planted(steps=30)
    other = dynamics.values.copy()
    unknown = np.setdiff1d(np.arange(31), np.arange(0, 31, 7))
    other[:, unknown] = 100.0
    for between in ("jump", "hold"):
        simulated = []
        for values in (dynamics.values, other):
            simulator = every(7, between)
            simulator.fit(Dynamics(values, dynamics.validate), curricula, features)
            simulated.append(simulator.simulate(curricula, dynamics.values[:, :1]))
        np.testing.assert_array_equal(simulated[0], simulated[1])


@pytest.mark.parametrize("interval", [7, 20])  # 30 steps: 4 whole intervals and 2 steps; 1 and 10
def test_a_last_interval_that_is_cut_short(interval: int) -> None:
    dynamics, curricula, features = planted(steps=30)
    simulator = every(interval)
    simulator.fit(dynamics, curricula, features)
    whole, rest = divmod(30, interval)
    found = simulator.simulate(curricula, dynamics.values[:, :1])
    again = curricula.examples[:, whole * interval :][:, np.arange(interval) % rest]
    longer = Curricula(np.concatenate([curricula.examples[:, : whole * interval], again], axis=1))
    np.testing.assert_allclose(found, simulator.simulate(longer, dynamics.values[:, :1])[:, :31], rtol=1e-12)


def test_order_counts_known_steps() -> None:
    dynamics, curricula, features = planted(steps=30)
    simulator = every(5, order=3)
    assert simulator.start == 11
    simulator.fit(dynamics, curricula, features)
    found = simulator.simulate(curricula, dynamics.values[:, :11])
    np.testing.assert_array_equal(found[:, :11], dynamics.values[:, :11])
    between = dynamics.values[:, :11].copy()
    between[:, [1, 2, 3, 4, 6, 7, 8, 9]] = 0.0
    np.testing.assert_array_equal(simulator.simulate(curricula, between)[:, 11:], found[:, 11:])
    assert every(5, "hold", order=3).start == 3


def test_longer_intervals_know_less() -> None:
    dynamics, curricula, features = planted(runs=24)
    dynamics, curricula, truth, fresh = split(dynamics, curricula, 6)
    errors = {}
    for between in ("jump", "hold"):
        for interval in (1, 10):
            simulator = make_method("m", GPTFLUENCE | {"interval": interval, "between": between})
            simulator.fit(dynamics, curricula, features)
            errors[between, interval] = all_steps_mse(simulator.simulate(fresh, truth[:, :1]), truth, 1)
        assert errors[between, 10] > errors[between, 1]
    assert errors["jump", 10] < errors["hold", 10]


def test_transfer_and_too_long_intervals() -> None:
    dynamics, curricula, features = planted(steps=30)
    known = np.arange(7) < 5
    simulator = every(5)
    simulator.fit(Dynamics(dynamics.values[:, :, known], dynamics.validate), curricula, features.of_tests(known))
    other = simulator.transfer(features.of_tests(~known), dynamics.values[0, 0, ~known])
    assert other is not None and other.start == 1
    assert other.simulate(curricula, dynamics.values[:, :1][:, :, ~known]).shape == (16, 31, 2)
    with pytest.raises(UserError, match="interval of 31 steps is too long for runs of 30"):
        every(31).fit(dynamics, curricula, features)
    with pytest.raises(UserError, match="interval of 10 steps is too long for runs of 30, of which 30"):
        every(10, order=4).fit(dynamics, curricula, features)
