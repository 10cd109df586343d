import numpy as np
from gptfluence.page.precision import ERROR, Use, choose_steps, round_kernels
from gptfluence.simulators.base import Kernels
from gptfluence.simulators.gradient_response import GradientResponse
from synthetic import planted


def test_rounding_moves_predictions_by_what_is_allowed_and_not_by_much_less() -> None:
    dynamics, curricula, features = planted(runs=12, steps=20, batch=3, train=30, tests=6)
    simulator = GradientResponse(("sgd", "adamw"), (0.0, 0.9), (1.0, 0.8, 0.5), (1e-4, 1e-2, 1.0))
    simulator.fit(dynamics, curricula, features)
    kernels = np.stack([simulator.responses.kernels.values[name] for name in simulator.names]).astype(float)
    first, tasks = dynamics.values[:, :1], [0, 1]
    exact = simulator.simulate(curricula, first)
    for unit in (1.0, 0.01):
        steps = choose_steps(kernels, [Use(simulator, tasks, unit)], 2, curricula.rates[0], 3)
        rounded = round_kernels(kernels, steps, simulator.task) * steps[:, :, None, simulator.task]
        held = Kernels(
            features.kernels.steps, features.kernels.tokens, dict(zip(simulator.names, rounded, strict=True))
        )
        simulator.responses = simulator.responses._replace(kernels=held)
        errors = simulator.simulate(curricula, first) - exact
        assert 0.02 * ERROR * unit < np.sqrt(np.square(errors).mean()) < ERROR * unit
        assert np.abs(errors).max() < 4 * ERROR * unit


def test_kernels_that_nothing_is_made_of_fit_their_type() -> None:
    simulator = GradientResponse(("sgd",), (0.0,), (1.0,), (1.0,))
    simulator.weights, simulator.replicas = np.zeros((1, 1)), np.zeros((1, 0, 1))
    simulator.responses = simulator.responses._replace(
        kernels=Kernels(np.array([0]), np.array([1]), {"sgd": np.ones(1)})
    )
    kernels = np.array([[[[1e30, -1.0]]]])
    steps = choose_steps(kernels, [Use(simulator, [0], 1.0)], 1, np.ones(3), 2)
    assert np.abs(round_kernels(kernels, steps, np.zeros(2, int))).max() <= 2**30
