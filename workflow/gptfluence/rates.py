"""Learning rates: what each update's is, for whoever trains a run and for whoever simulates one."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Shape = Literal["linear", "constant", "cosine"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
"""What a learning rate does after its warm-up: it falls to 0 behind the last update, in a line or half a cosine, or
stays."""


def rate_factor(update: int, updates: int, shape: Shape = "linear", warmup: float = 0.0) -> float:
    """Return the learning rate of an update (from 0) of a run, in units of the run's learning rate.

    The first W = round(warmup * updates) updates have 1 / (W + 1), 2 / (W + 1), ..., none of them 0.

    Args:
        updates: of the whole run; behind the last the factor is that of the end.
        warmup: share of the updates, below 1.
    """
    rising = round(warmup * updates)
    if update < rising:
        return (update + 1) / (rising + 1)
    passed = (update - rising) / (updates - rising) if updates > rising else 1.0
    return {"linear": 1 - passed, "constant": 1.0, "cosine": (1 + math.cos(math.pi * passed)) / 2}[shape]


def rates_of(run: dict[str, Any], updates: int) -> NDArray[np.float64]:
    """Return the learning rate of each update of a run, [updates].

    Args:
        run: learning_rate, schedule and warmup; see `runs.Run`.
    """
    factors = [rate_factor(t, updates, run["schedule"], run["warmup"]) for t in range(updates)]
    return run["learning_rate"] * np.array(factors)
