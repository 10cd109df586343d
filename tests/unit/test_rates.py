from typing import Any

import numpy as np
import pytest
from gptfluence.rates import SHAPES, rate_factor, rates_of


def run(**settings: Any) -> dict[str, Any]:
    return {"learning_rate": 0.5, "schedule": "linear", "warmup": 0.0} | settings


def test_linear_decay_falls_by_the_same_amount_each_step() -> None:
    np.testing.assert_allclose(rates_of(run(), 4), [0.5, 0.375, 0.25, 0.125])


def test_constant_stays_and_cosine_is_a_rotating_pointer() -> None:
    np.testing.assert_array_equal(rates_of(run(schedule="constant"), 3), [0.5] * 3)
    pointer = np.exp(1j * np.pi * np.arange(5) / 5)
    np.testing.assert_allclose(rates_of(run(schedule="cosine"), 5), 0.25 * (1 + pointer.real))


@pytest.mark.parametrize(("shape", "rest"), [("linear", [1, 2 / 3, 1 / 3]), ("constant", [1, 1, 1]),
                                             ("cosine", [1, 0.75, 0.25])])  # fmt: skip
def test_warm_up_rises_to_the_rate_and_what_follows_starts_there(shape: str, rest: list[float]) -> None:
    found = rates_of(run(learning_rate=1.0, schedule=shape, warmup=0.4), 5)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, *rest])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
def test_every_update_of_a_run_moves_something(shape: str, warmup: float) -> None:
    for updates in (1, 2, 7):
        factors = np.array([rate_factor(t, updates, shape, warmup) for t in range(updates)])
        assert (factors > 0).all() and (factors <= 1).all()
    assert rate_factor(7, 7, shape) == (1.0 if shape == "constant" else 0.0)
