"""GPTfluence with the published code's head: shared two-layer ReLU networks instead of the paper's matrices.

For each previous value and for beta one network maps training and test features alike, and a factor is the
product of the two images: `A_ij(z) = <mlp_j(h_i), mlp_j(h_z)>`, `B_i(z) = <mlp_0(h_i), mlp_0(h_z)>`. As in
that code: the networks' form and size (591,360 parameters at width 384 and order 1), torch's initialisation
of linear layers, Adam on the squared errors of single steps (see `adam`); with its settings also its features
(cls), its sum over the batch, its batch of 128 items and its history (one value given, zeros before it).

What differs: features are encoded without dropout and scaled to a root mean square length of 1; the metric is
in units of its standard deviation; with `shrink_to` persistence alpha_1 is 1 plus its factors; the first
value is that before the first update, not that after it; the networks run once over the distinct examples of
an update instead of for every occurrence, which changes no number.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators import adam
from gptfluence.simulators.adam import Weights
from gptfluence.simulators.base import UNBOUNDED, Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.rollout import (
    Aggregation,
    aggregate,
    counts,
    extent_of,
    lagged,
    metric_scale,
    roll_out,
    unit_length,
    validation_mse,
)

if TYPE_CHECKING:
    import torch


class Mlp(Simulator):
    """GPTfluence with the published code's networks; only fitting needs torch."""

    kind = "gptfluence_mlp"

    def __init__(
        self,
        order: int,
        start: Literal["given", "zeros"],
        aggregation: Aggregation,
        shrink_to: Literal["persistence", "zero"],
        adam: dict[str, Any],
    ) -> None:
        """Set the form of a step and its training.

        Args:
            order: how many previous values a step sees.
            start: all of them given (paper), or the first alone and zeros before it (published code).
            aggregation: sum (paper, published code) or mean of the factors of a batch.
            shrink_to: persistence: alpha_1 = 1 + its factors; zero (published code): alpha_1 = its factors.
            adam: how it is trained; settings of `adam.train`.
        """
        self.settings: dict[str, Any] = {
            "order": order,
            "start": start,
            "aggregation": aggregation,
            "shrink_to": shrink_to,
            "adam": adam,
        }
        self.start = order if start == "given" else 1
        self.aggregation = aggregation
        self.prior = 1.0 if shrink_to == "persistence" else 0.0
        self.chosen: dict[str, float] = {}
        self.scale = 1.0
        self.length = 1.0  # of features of training examples, by which they are divided
        self.train = self.test = np.empty((0, 0))
        self.weights: Weights = {}

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Train with every learning rate and keep the weights whose roll-out is best on the validation runs."""
        if not (features.train.any() and features.test.any()):
            raise UserError("the mlp simulator needs features of the examples; the fit was given none, or zeros")
        dynamics.check(validation=True)
        self.extent = UNBOUNDED
        self.scale = metric_scale(dynamics)
        reference = features.train[np.unique(curricula.examples[~dynamics.validate])]
        self.train = unit_length(features.train, reference)
        self.length = 1 / float(unit_length(np.ones(1), reference)[0])
        self.test = unit_length(features.test, features.test)
        order = self.settings["order"]
        used, examples = np.unique(curricula.examples, return_inverse=True)
        examples = examples.reshape(curricula.examples.shape)
        fitting = ~dynamics.validate
        values = dynamics.values[fitting] / self.scale
        tests = values.shape[2]
        lags = [lag.reshape(-1, tests) for lag in lagged(values, order, self.start)]
        items = adam.Items(lags, values[:, self.start :].reshape(-1, tests), self.prior)
        batches = counts(examples[fitting], len(used), self.aggregation)[:, self.start - 1 :]
        share = adam.tensor(batches.reshape(-1, len(used)))
        both = adam.tensor(np.concatenate([self.train[used], self.test]))

        def factors(p: adam.Parameters, picked: adam.Picked | None) -> torch.Tensor:
            hidden = (both @ p["weight_1"] + p["bias_1"]).relu()
            image = hidden @ p["weight_2"] + p["bias_2"]
            pairs = image[:, : len(used)] @ image[:, len(used) :].mT  # [order + 1, used, tests]
            return adam.pick(lambda rows: share[rows] @ pairs, picked)

        def error(weights: Weights) -> float:
            self.weights = weights
            return validation_mse(self, dynamics, curricula)

        self.weights, self.chosen = adam.train(
            self.settings["adam"],
            lambda generator: _initial_weights(order + 1, both.shape[1], generator),
            factors,
            items,
            error,
        )
        self.extent = extent_of(dynamics)

    def factors(self) -> Array:
        """Return the factors of each previous value and, last, beta in the metric's unit: [order + 1, train, tests]."""
        found = self._images(self.train) @ self._images(self.test).swapaxes(1, 2)
        found[-1] *= self.scale
        return found

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out from the given values; see `Simulator.simulate`."""
        used, examples = np.unique(curricula.examples, return_inverse=True)
        pairs = self._images(self.train[used]) @ self._images(self.test).swapaxes(1, 2)
        examples = examples.reshape(curricula.examples.shape)
        steps = np.stack([aggregate(factor, examples, self.aggregation) for factor in pairs])
        steps[0] += self.prior
        return roll_out(steps[:-1], steps[-1] * self.scale, first_values, self.extent)

    def extend(self, features: Array) -> Self:
        """Take further training examples' features; see `Simulator.extend`."""
        other = copy(self)
        other.train = np.concatenate([self.train, np.asarray(features, float) / self.length])
        return other

    def _images(self, rows: Array) -> Array:
        """Return what every network makes of features: [networks, rows, width]."""
        w = {name: array.astype(float) for name, array in self.weights.items()}
        return np.maximum(rows @ w["weight_1"] + w["bias_1"], 0.0) @ w["weight_2"] + w["bias_2"]

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the features (train [train, width], test [tests, width]), weights, extent and settings."""
        values = {"settings": self.settings, "chosen": self.chosen, "scale": self.scale, "length": self.length}
        return {"train": self.train, "test": self.test, "extent": self.extent, **self.weights}, values

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        simulator.chosen, simulator.scale = values["chosen"], values["scale"]
        simulator.length = values["length"]
        simulator.train, simulator.test, simulator.extent = (arrays[name] for name in ("train", "test", "extent"))
        simulator.weights = {name: arrays[name] for name in ("weight_1", "bias_1", "weight_2", "bias_2")}
        return simulator


def _initial_weights(networks: int, width: int, generator: np.random.Generator) -> Weights:
    """Draw weights [networks, width, width] and biases [networks, 1, width] as torch does for linear layers."""
    shapes = {
        "weight_1": (networks, width, width),
        "bias_1": (networks, 1, width),
        "weight_2": (networks, width, width),
        "bias_2": (networks, 1, width),
    }
    return {name: adam.linear_layer(generator, *shape) for name, shape in shapes.items()}
