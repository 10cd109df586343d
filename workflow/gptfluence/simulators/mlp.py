"""GPTfluence with the published code's head: shared two-layer ReLU networks instead of the paper's matrices.

For each previous value and for beta one network maps training and test features alike, and a factor is the
product of the two images: `A_ij(z) = <mlp_j(h_i), mlp_j(h_z)>`, `B_i(z) = <mlp_0(h_i), mlp_0(h_z)>`. As in
that code: the networks' form and size (591,360 parameters at width 384 and order 1), torch's initialisation
of linear layers, Adam with coupled weight decay, mean squared one-step error, early stopping on the
validation runs' roll-out.

What differs: features are encoded without dropout and scaled to a root mean square length of 1; the metric is
in units of its standard deviation; with `shrink_to` persistence alpha_1 is 1 plus its factors; an epoch is
one step on all (run, step, test example) items at once, as the networks then run once over the distinct
examples instead of for every occurrence (hence no warm-up and no decay of the learning rate either); early
stopping counts epochs without improvement.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators.base import UNBOUNDED, Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.rollout import (
    Aggregation,
    aggregate,
    all_steps_mse,
    counts,
    extent_of,
    lagged,
    metric_scale,
    roll_out,
    unit_length,
)

Weights = dict[str, NDArray[np.float32]]

log = logging.getLogger("gptfluence")


class Mlp(Simulator):
    """GPTfluence with the published code's networks; only fitting needs torch."""

    kind = "gptfluence_mlp"

    def __init__(
        self,
        order: int,
        start: Literal["given", "zeros"],
        aggregation: Aggregation,
        shrink_to: Literal["persistence", "zero"],
        learning_rates: tuple[float, ...],
        weight_decay: float,
        epochs: int,
        patience: int,
        seed: int,
    ) -> None:
        """Set the form of a step and its training.

        Args:
            order: how many previous values a step sees.
            start: all of them given (paper), or the first alone and zeros before it (published code).
            aggregation: sum (paper, published code) or mean of the factors of a batch.
            shrink_to: persistence: alpha_1 = 1 + its factors; zero (published code): alpha_1 = its factors.
            learning_rates: Adam's; the validation runs choose one.
            weight_decay: Adam's coupled L2 coefficient.
            epochs: at most so many steps.
            patience: epochs without a better validation roll-out before it ends.
            seed: of the initial weights; equal seeds give equal weights.
        """
        self.settings: dict[str, Any] = {
            "order": order,
            "start": start,
            "aggregation": aggregation,
            "shrink_to": shrink_to,
            "learning_rates": list(learning_rates),
            "weight_decay": weight_decay,
            "epochs": epochs,
            "patience": patience,
            "seed": seed,
        }
        self.start = order if start == "given" else 1
        self.aggregation = aggregation
        self.prior = 1.0 if shrink_to == "persistence" else 0.0
        self.chosen: dict[str, float] = {}
        self.scale = 1.0
        self.train = self.test = np.empty((0, 0))
        self.weights: Weights = {}

    def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None:
        """Train with every learning rate and keep the weights whose roll-out is best on the validation runs."""
        if not (features.train.any() and features.test.any()):
            raise UserError("the mlp simulator needs features of the examples; the fit was given none, or zeros")
        dynamics.check(validation=True)
        self.extent = UNBOUNDED
        self.scale = metric_scale(dynamics)
        self.train = unit_length(features.train, features.train[np.unique(curricula.examples[~dynamics.validate])])
        self.test = unit_length(features.test, features.test)
        lowest = float("inf")
        for rate in self.settings["learning_rates"]:
            weights, error, epochs = self._train(rate, dynamics, curricula)
            log.debug("learning rate %g: validation MSE %.4g, best after %d epochs", rate, error, epochs)
            if not self.weights or error < lowest:
                self.weights, lowest = weights, error
                self.chosen = {"learning_rate": rate, "epochs": epochs}
        self.extent = extent_of(dynamics)

    def _train(self, rate: float, dynamics: Dynamics, curricula: Curricula) -> tuple[Weights, float, int]:
        """Return the best weights of one learning rate, their validation MSE, and after how many epochs they came."""
        import torch  # heavy, and nothing but fitting needs it

        torch.set_num_threads(1)
        order, settings = self.settings["order"], self.settings
        used, examples = np.unique(curricula.examples, return_inverse=True)
        examples = examples.reshape(curricula.examples.shape)
        fitting, validate = ~dynamics.validate, dynamics.validate
        values = dynamics.values[fitting] / self.scale
        measured = dynamics.values[validate]

        def tensor(array: Array) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))

        tests = values.shape[2]
        both = tensor(np.concatenate([self.train[used], self.test]))
        batches = counts(examples[fitting], len(used), self.aggregation)[:, self.start - 1 :]
        share = tensor(batches.reshape(-1, len(used)))
        lags = [tensor(lag.reshape(-1, tests)) for lag in lagged(values, order, self.start)]
        target = tensor(values[:, self.start :].reshape(-1, tests))
        weights = _initial_weights(order + 1, both.shape[1], settings["seed"])
        parameters = {name: torch.from_numpy(array).requires_grad_() for name, array in weights.items()}
        optimizer = torch.optim.Adam(parameters.values(), lr=rate, weight_decay=settings["weight_decay"], fused=True)

        best, lowest, best_epoch = None, float("inf"), 0
        for epoch in range(settings["epochs"] + 1):
            hidden = torch.relu(
                torch.baddbmm(parameters["bias_1"], both.expand(order + 1, -1, -1), parameters["weight_1"])
            )
            image = torch.baddbmm(parameters["bias_2"], hidden, parameters["weight_2"])
            factors = image[:, : len(used)] @ image[:, len(used) :].mT  # [order + 1, used, tests]
            simulated = self._roll_out(
                factors.detach().numpy().astype(float), examples[validate], measured[:, : self.start]
            )
            error = all_steps_mse(simulated, measured, self.start)
            if best is None or error < lowest:
                best = {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
                lowest, best_epoch = error, epoch
            # While every roll-out still explodes there is nothing to compare, and patience does not run.
            if np.isfinite(lowest) and epoch - best_epoch >= settings["patience"]:
                break
            steps = share @ factors
            predicted = steps[-1] + self.prior * lags[0]
            for factor, lag in zip(steps, lags, strict=False):
                predicted = predicted + factor * lag
            loss = torch.mean((predicted - target) ** 2)
            if not torch.isfinite(loss):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert best is not None
        return best, lowest, best_epoch

    def simulate(self, curricula: Curricula, first_values: Array) -> Array:
        """Roll out from the given values; see `Simulator.simulate`."""
        used, examples = np.unique(curricula.examples, return_inverse=True)
        left, right = self._images(self.train[used]), self._images(self.test)
        return self._roll_out(left @ right.swapaxes(1, 2), examples.reshape(curricula.examples.shape), first_values)

    def _images(self, rows: Array) -> Array:
        """Return what every network makes of features: [networks, rows, width]."""
        w = {name: array.astype(float) for name, array in self.weights.items()}
        return np.maximum(rows @ w["weight_1"] + w["bias_1"], 0.0) @ w["weight_2"] + w["bias_2"]

    def _roll_out(self, factors: Array, examples: NDArray[np.int64], first_values: Array) -> Array:
        steps = np.stack([aggregate(factor, examples, self.aggregation) for factor in factors])
        steps[0] += self.prior
        return roll_out(steps[:-1], steps[-1] * self.scale, first_values, self.extent)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the features (train [train, width], test [tests, width]), weights, extent and settings."""
        values = {"settings": self.settings, "chosen": self.chosen, "scale": self.scale}
        return {"train": self.train, "test": self.test, "extent": self.extent, **self.weights}, values

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], values: dict[str, Any]) -> Self:
        """Return the simulator whose `state` this is."""
        simulator = cls(**values["settings"])
        simulator.chosen, simulator.scale = values["chosen"], values["scale"]
        simulator.train, simulator.test, simulator.extent = (arrays[name] for name in ("train", "test", "extent"))
        simulator.weights = {name: arrays[name] for name in ("weight_1", "bias_1", "weight_2", "bias_2")}
        return simulator


def _initial_weights(networks: int, width: int, seed: int) -> Weights:
    """Draw weights [networks, width, width] and biases [networks, 1, width] as torch does for linear layers."""
    draw = np.random.default_rng(seed)
    bound = width**-0.5
    shapes = {
        "weight_1": (networks, width, width),
        "bias_1": (networks, 1, width),
        "weight_2": (networks, width, width),
        "bias_2": (networks, 1, width),
    }
    return {name: draw.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
