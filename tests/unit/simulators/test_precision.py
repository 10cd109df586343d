"""Inputs that were stored as float32 give what float64 inputs give, to a few roundings if ridge is not too weak.

A rounding of 6e-8 in a design of largest squared singular value L and ridge strength s can move a prediction by up to
6e-8 L / s: on the group below, with fewer rows than unknowns, noise, and text-like features whose spectrum falls, L is
about 1e3, so that s = 1e-3, the weakest strength of params.yaml, guarantees no more than 6 %. What happens is far less,
as the target lies mostly along large singular values. Measured, in units of the range of the metric, on curricula that
were not fitted, the largest of four seeds: 2e-6 for s >= 1e-3, 7e-6 for s = 1e-4, 8e-5 for s = 1e-6; what adds up
gradients or knows no training examples 1e-7; networks, trained in float32 on what is rounded to it anyway, 4e-7.
"""

from dataclasses import replace

import numpy as np
import pytest
from gptfluence.simulators.base import Curricula, Dynamics, Features
from gptfluence.simulators.registry import make_method
from synthetic import ADAM, METHOD_SETTINGS, planted

TOLERANCE = 1e-5
"""Of a roll-out, in units of the metric's range, for strengths of 1e-3 and more: five times what was measured."""
ALONE = [(name, strength) for name, settings in METHOD_SETTINGS.items() if "strengths" in settings
         for strength in (1e-3, 1e-1, 10.0)]  # fmt: skip


def hard(seed: int) -> tuple[Dynamics, Curricula, Features]:
    """Return 3 fitting runs of 30 steps and 60 training examples, with noise and features of width 46."""
    dynamics, curricula, features = planted(runs=5, train=60, tests=7, seed=seed)
    draw = np.random.default_rng(seed + 50)
    spectrum = np.arange(1, 41) ** -1.0
    train, test = (
        np.concatenate([rows, draw.normal(size=(len(rows), 40)) * spectrum], axis=1)
        for rows in (features.train, features.test)
    )
    values = dynamics.values + 0.05 * draw.normal(size=dynamics.values.shape)
    return replace(dynamics, values=values), curricula, replace(features, train=train, test=test)


def rounded(dynamics: Dynamics, curricula: Curricula, features: Features) -> tuple[Dynamics, Curricula, Features]:
    """Return all that is measured or made by a GPT or an encoder as float32 arrays."""
    return (
        Dynamics(dynamics.values.astype(np.float32), dynamics.validate),  # type: ignore[arg-type]
        curricula,
        replace(features, train=features.train.astype(np.float32), test=features.test.astype(np.float32)),
    )


def difference(settings: dict, seed: int) -> tuple[float, dict, dict]:
    """Fit and simulate in both; return the largest difference, in units of the range, and what was chosen."""
    group = hard(seed)
    fresh = replace(group[1], examples=np.random.default_rng(9).integers(0, 60, group[1].examples.shape))
    simulated, chosen = [], []
    for each in (group, rounded(*group)):
        simulator = make_method("mine", settings)
        simulator.fit(*each)
        simulated.append(simulator.simulate(fresh, each[0].values[:, : simulator.start]))
        chosen.append(simulator.state()[1]["chosen"])
        assert simulated[-1].dtype == np.float64
    return float(np.abs(simulated[0] - simulated[1]).max() / np.ptp(group[0].values)), *chosen


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_float32_inputs_choose_and_simulate_alike(name: str) -> None:
    settings = METHOD_SETTINGS[name]
    if "strengths" in settings:
        settings = settings | {"strengths": (1e-3, 1e-2, 1e-1, 1.0, 10.0)}
    error, first, second = difference(settings, seed=0)
    assert error < TOLERANCE
    assert first == pytest.approx(second, rel=TOLERANCE)


@pytest.mark.parametrize(("name", "strength"), ALONE)
def test_at_every_strength(name: str, strength: float) -> None:
    error, _, _ = difference(METHOD_SETTINGS[name] | {"strengths": (strength,)}, seed=1)
    assert error < TOLERANCE


def test_roundings_do_not_grow_while_networks_train() -> None:
    settings = METHOD_SETTINGS["gptfluence_mlp"] | {
        "adam": ADAM | {"learning_rates": (0.003,), "epochs": 200, "patience": 200}
    }
    error, first, second = difference(settings, seed=0)
    assert error < TOLERANCE
    assert first == second


def test_saved_arrays_keep_their_precision() -> None:
    """What is fitted is float64, and so are features; scores, kernels and networks come as float32 and stay so."""
    for name, settings in METHOD_SETTINGS.items():
        simulator = make_method(name, settings)
        simulator.fit(*rounded(*planted(runs=5)))
        arrays = simulator.state()[0]
        single = {array for array, values in arrays.items() if values.dtype == np.float32}
        given = {"scores", "sgd", "adamw", "weight_1", "weight_2", "bias_1", "bias_2"}
        assert single == given & set(arrays)
        assert all(values.dtype in (np.float32, np.float64, np.int64) for values in arrays.values())
