import os
import subprocess
import sys

import numpy as np
import pytest
from gptfluence.baselines.trivial import Persistence
from gptfluence.errors import UserError
from gptfluence.simulators.base import UNBOUNDED, Curricula, Dynamics, Features
from gptfluence.simulators.mlp import Mlp
from gptfluence.simulators.rollout import all_steps_mse, validation_mse
from synthetic import planted, split


def make(**changes) -> Mlp:
    settings = {
        "order": 1,
        "start": "given",
        "aggregation": "mean",
        "shrink_to": "persistence",
    }
    adam = {"learning_rates": [0.003], "weight_decay": 1e-5, "batch": None, "warmup": 0, "epochs": 200, "patience": 30}
    form = {name: value for name, value in changes.items() if name in settings}
    training = {name: value for name, value in changes.items() if name not in settings}
    return Mlp(**(settings | form), adam=adam | {"seed": 1} | training)


def wide(features: Features, width: int) -> Features:
    """Rotate the features into a wider space: networks as wide as their input need some room."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0][: features.train.shape[1]]
    return Features(features.train @ basis, features.test @ basis)


def test_size_of_the_published_head() -> None:
    dynamics, curricula, features = planted(runs=4, steps=4)
    simulator = make(epochs=1)
    simulator.fit(dynamics, curricula, wide(features, 384))
    assert sum(array.size for array in simulator.weights.values()) == 591_360
    three = make(epochs=1, order=2, start="zeros")
    three.fit(dynamics, curricula, wide(features, 384))
    assert sum(array.size for array in three.weights.values()) == 591_360 // 2 * 3


def test_learns_a_true_bilinear_model() -> None:
    dynamics, curricula, features = planted(runs=20)
    dynamics, curricula, truth, fresh = split(dynamics, curricula, 4)
    simulator, persistence = make(), Persistence()
    simulator.fit(dynamics, curricula, wide(features, 64))
    error = all_steps_mse(simulator.simulate(fresh, truth[:, :1]), truth, 1)
    baseline = all_steps_mse(persistence.simulate(fresh, truth[:, :1]), truth, 1)
    assert error < 0.1 * baseline
    shuffled = Curricula(np.random.default_rng(3).permutation(24)[fresh.examples])
    assert all_steps_mse(simulator.simulate(shuffled, truth[:, :1]), truth, 1) > 2 * error


def test_equal_seeds_give_equal_bytes() -> None:
    dynamics, curricula, features = planted(runs=5, steps=8)
    first, second, other = make(epochs=5), make(epochs=5), make(epochs=5, seed=2)
    for simulator in (first, second, other):
        simulator.fit(dynamics, curricula, features)
    for name, array in first.weights.items():
        assert array.tobytes() == second.weights[name].tobytes()
    assert not np.array_equal(first.weights["weight_1"], other.weights["weight_1"])


def test_simulate_in_numpy_equals_torch_networks() -> None:
    import torch

    dynamics, curricula, features = planted(runs=5, steps=8)
    simulator = make(epochs=20, order=2, start="zeros", aggregation="sum")
    simulator.fit(dynamics, curricula, features)
    images = []
    for k in range(3):
        network = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6)).double()
        for layer, name in ((network[0], "1"), (network[2], "2")):
            layer.weight.data = torch.tensor(simulator.weights[f"weight_{name}"][k].T).double()
            layer.bias.data = torch.tensor(simulator.weights[f"bias_{name}"][k, 0]).double()
        with torch.no_grad():
            h, z = (network(torch.tensor(rows)).numpy() for rows in (simulator.train, simulator.test))
        images.append(h @ z.T)
    first = dynamics.values[:1, :1]
    before, now = np.zeros(7), first[0, 0]
    for batch in curricula.examples[0]:
        one, two, beta = (image[batch].sum(axis=0) for image in images)
        before, now = now, (1 + one) * now + two * before + beta * simulator.scale
    simulator.extent = UNBOUNDED  # a sum explodes
    found = simulator.simulate(Curricula(curricula.examples[:1]), first)
    np.testing.assert_allclose(found[0, -1], now, rtol=1e-8)


def test_learning_rate_and_epoch_are_chosen_on_validation_runs() -> None:
    dynamics, curricula, features = planted()
    flat = dynamics.values.copy()
    flat[dynamics.validate] = flat[dynamics.validate][:, :1]
    epochs = []
    for values in (dynamics.values, flat):
        changed = Dynamics(values, dynamics.validate)
        both, *each = (make(learning_rates=r, epochs=150) for r in ((0.001, 0.01), (0.001,), (0.01,)))
        for simulator in (both, *each):
            simulator.fit(changed, curricula, features)
        errors = [validation_mse(simulator, changed, curricula) for simulator in each]
        best = each[int(np.argmin(errors))]
        assert both.chosen == best.chosen
        np.testing.assert_array_equal(both.weights["weight_1"], best.weights["weight_1"])
        epochs.append(both.chosen)
    assert epochs[0] != epochs[1]


def test_missing_features() -> None:
    dynamics, curricula, _ = planted()
    with pytest.raises(UserError, match="features"):
        make().fit(dynamics, curricula, Features(np.zeros((24, 0)), np.zeros((7, 0))))


def test_other_methods_never_import_torch() -> None:
    code = (
        "import sys, gptfluence.simulators.fit, gptfluence.simulators.simulate, gptfluence.simulators.encode;"
        "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    )
    path = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=path).returncode == 0
