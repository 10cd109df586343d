import numpy as np
from gptfluence.simulators.base import Dynamics
from gptfluence.simulators.each_task import EachTask
from gptfluence.simulators.registry import make_method
from synthetic import RIDGE, planted

SETTINGS = {"kind": "gptfluence", "head": "bilinear", "order": 1, "start": "given", **RIDGE}


def test_equals_a_simulator_of_each_tasks_tests() -> None:
    dynamics, curricula, features = planted()
    assert features.tasks == 2
    simulator = make_method("m", SETTINGS | {"tasks": "each"})
    assert isinstance(simulator, EachTask)
    simulator.fit(dynamics, curricula, features)
    found = simulator.simulate(curricula, dynamics.values[:, :1])
    for task in (0, 1):
        tests = features.test_task == task
        alone = make_method("m", SETTINGS)
        alone.fit(Dynamics(dynamics.values[:, :, tests], dynamics.validate), curricula, features.of_tests(tests))
        np.testing.assert_array_equal(found[..., tests], alone.simulate(curricula, dynamics.values[:, :1][..., tests]))
    together = make_method("m", SETTINGS | {"tasks": "together"})
    together.fit(dynamics, curricula, features)
    assert np.abs(together.simulate(curricula, dynamics.values[:, :1]) - found).max() > 1e-6


def test_transfer_is_by_task() -> None:
    dynamics, curricula, features = planted()
    known = np.array([True, True, False, True, True, True, False])
    simulator = make_method("m", SETTINGS | {"tasks": "each"})
    simulator.fit(Dynamics(dynamics.values[..., known], dynamics.validate), curricula, features.of_tests(known))
    other = simulator.transfer(features.of_tests(~known), dynamics.values[0, 0, ~known])
    assert other is not None
    found = other.simulate(curricula, dynamics.values[:, :1][..., ~known])
    last = features.test_task == 1
    alone = make_method("m", SETTINGS)
    own = known & last
    alone.fit(Dynamics(dynamics.values[..., own], dynamics.validate), curricula, features.of_tests(own))
    hidden = features.of_tests(~known & last)
    alone = alone.transfer(hidden, dynamics.values[0, 0, ~known & last])
    expected = alone.simulate(curricula, dynamics.values[:, :1][..., ~known & last])
    np.testing.assert_array_equal(found[..., -1:], expected)
