"""A simulator of some training and some test examples: what a search among them, for the sake of those, asks."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators.base import Simulator
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.mlp import Mlp
from gptfluence.simulators.simfluence import Simfluence


def restrict(simulator: Simulator, train: NDArray[np.int64], tests: NDArray[np.int64]) -> Simulator:
    """Return a simulator for `search.search`, in which examples count from 0 in the order of `train` and `tests`.

    Of gradient response it holds what `search.final_effects` reads, not what a simulation does.

    Raises:
        UserError: there is no search with simulators of this kind.
    """
    other = copy(simulator)
    match simulator, other:
        case GradientResponse(), GradientResponse():
            kernels = simulator.responses.kernels
            values = {name: kernel[:, train][..., tests] for name, kernel in kernels.values.items()}
            other.responses = simulator.responses._replace(
                kernels=replace(kernels, tokens=kernels.tokens[train], values=values)
            )
            other.task = simulator.task[tests]
        case Simfluence(), Simfluence():
            other.factors = {name: factor[train][:, tests] for name, factor in simulator.factors.items()}
        case (Bilinear(), Bilinear()) | (Mlp(), Mlp()):
            other.train, other.test = simulator.train[train], simulator.test[tests]
        case _:
            raise UserError(f"there is no search with simulators of kind {simulator.kind}; there is with "
                            "gradient_response, simfluence and gptfluence")  # fmt: skip
    return other
