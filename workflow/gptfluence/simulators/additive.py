"""Attribution scores as an additive simulator: the loss falls by what a step's examples are said to take off it.

One step, with m the metric, S[i, z] the score of training example i for test example z (above zero: a proponent),
n_i the example's target tokens, and rate_t the learning rate:

    m_t(z) = m_{t-1}(z) - scale * rate_t * sum_{i in c_t} w_i S[i, z],    w_i = n_i / sum_{j in c_t} n_j

This is one step of SGD on the batch to first order, where S[i, z] is the product of the gradients of both losses
(TracIn, arXiv 2002.08484, sec. 3; paper, eq. 1-2): a batch's loss is the mean over its tokens, hence the weights.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError, did_you_mean
from gptfluence.simulators.base import Array, Attribution, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.rollout import aggregate, confine, extent_of


class Additive(Simulator):
    """An attribution method, made to simulate."""

    kind = "additive"

    def __init__(self, scores: str, scale: Literal["none", "fitted"]) -> None:
        """Set whose scores they are, and their unit.

        Args:
            scores: name of the attribution method.
            scale: none: scores are in units of the loss (nats per token, and SGD's learning rate), scale = 1;
                fitted: one number for all pairs, by least squares. A metric that rises as the loss falls has a
                negative one, and means something only if fitted.
        """
        self.method = scores
        self.unit = scale
        self.scale = 1.0
        self.scores: NDArray[np.float32] = np.empty((0, 0), np.float32)  # [train, tests]
        self.tokens: NDArray[np.int64] = np.empty(0, np.int64)  # [train]

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Take the scores; fit the scale on the fitting runs' roll-outs. There is no hyper-parameter to choose.

        Raises:
            UserError: there are no scores of the method.
        """
        dynamics.check(validation=False)
        attribution = _attribution_with(features, self.method)
        self.extent = extent_of(dynamics)
        self.scores, self.tokens = attribution.scores[self.method], attribution.tokens
        if self.unit == "fitted":
            fitting = ~dynamics.validate
            measured = dynamics.values[fitting, 1:] - dynamics.values[fitting, :1]
            self.scale = _least_squares(self._changes(curricula.of(fitting)), measured)

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out from one given value; see `Simulator.simulate`."""
        changes = self.scale * self._changes(curricula)
        return confine(np.concatenate([first_values, first_values + changes], axis=1), 1, self.extent)

    def _changes(self, curricula: Curricula) -> Array:
        """Return by how much the metric has changed since step 0, at scale 1: [runs, steps, tests]."""
        tokens = self.tokens.astype(float)[:, None]
        batch = aggregate(tokens * self.scores, curricula.examples, "sum")
        batch /= aggregate(tokens, curricula.examples, "sum")
        return -np.cumsum(curricula.rates[:, :, None] * batch, axis=1)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return scores ([train, tests]), tokens ([train]) and the extent, and the settings with the fitted scale."""
        values = {
            "settings": {"scores": self.method, "scale": self.unit},
            "chosen": {"scale": self.scale} if self.unit == "fitted" else {},
        }
        return {"scores": self.scores, "tokens": self.tokens, "extent": self.extent}, values

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        simulator.scores, simulator.tokens, simulator.extent = (arrays[key] for key in ("scores", "tokens", "extent"))
        simulator.scale = values["chosen"].get("scale", 1.0)
        return simulator


def _attribution_with(features: Features, method: str) -> Attribution:
    """Return attribution scores that hold a method's."""
    if features.attribution is None:
        raise UserError(f"additive: there are no attribution scores to read {method} from; the job names no table")
    known = features.attribution.scores
    if method not in known:
        raise UserError(
            f"additive: the group's attribution scores hold no method '{method}'{did_you_mean(method, known)}; "
            f"there are {', '.join(known)}. Add it to attribution.methods in params.yaml"
        )
    return features.attribution


def _least_squares(predicted: Array, measured: Array) -> float:
    """Return the number c with the least sum of (c predicted - measured)^2; 0 if nothing is predicted."""
    largest = float(np.abs(predicted).max(initial=0))
    if not largest:
        return 0.0
    unit = predicted / largest  # so that no square over- or underflows
    return float(np.vdot(unit, measured) / np.vdot(unit, unit)) / largest
