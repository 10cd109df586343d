"""Training as the published code does it: Adam on the squared errors of single steps, in place of an exact solution.

An item is one step of one run on one test example: the true previous values and the batch are given, the next value is
the target. Items are shuffled every epoch; the learning rate rises linearly over the first updates and falls linearly
to zero at the end of the last epoch; weight decay is coupled: what is minimised is the mean squared error plus
`weight_decay / 2` times the squared length of the parameters. With N items that is a strength of `N weight_decay / 2`
on their summed squares, as the exact solutions have it. What is kept is the epoch whose roll-out is best on the
validation runs.

The published code stops when the validation error has risen ten epochs in a row; here, when it has not fallen below its
lowest for `patience` epochs, which also ends a run that goes up and down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfluence.simulators.base import Array

if TYPE_CHECKING:
    import torch

Weights = dict[str, NDArray[np.float32]]
Parameters = dict[str, "torch.Tensor"]
Picked = tuple["torch.Tensor", "torch.Tensor"]
"""Items of an update: their rows and their tests, [items] each."""
Factors = Callable[[Parameters, Picked | None], "torch.Tensor"]
"""Returns the factors of the previous values and, last, beta, of some items, [order + 1, items], or (None) of all,
[order + 1, rows, tests]: all are read as they lie, which is several times as fast as picking each."""

log = logging.getLogger("gptfluence")


class Trained(NamedTuple):
    """Weights, and how they were chosen.

    Attributes:
        weights: of the best epoch.
        chosen: the learning rate, and after how many epochs they came.
    """

    weights: Weights
    chosen: dict[str, float]


class Items:
    """The steps to be learned, and how a step's factors make its value.

    Attributes:
        lags: [order, rows, tests], the previous values of every step, the nearest first.
        target: [rows, tests].
        prior: what is added to the factor of the nearest previous value.
    """

    def __init__(self, lags: list[Array], target: Array, prior: float) -> None:
        """Take them over as tensors."""
        self.lags, self.target, self.prior = tensor(np.stack(lags)), tensor(target), prior

    def error(self, factors: torch.Tensor, picked: Picked | None) -> torch.Tensor:
        """Return the mean squared error of some items.

        Args:
            factors: what `Factors` returned of them.
            picked: which they are; None: all.
        """
        lags, target = self.lags, self.target
        if picked is not None:
            lags, target = lags[:, *picked], target[picked]
        predicted = self.prior * lags[0] + (factors[:-1] * lags).sum(0) + factors[-1]
        return ((predicted - target) ** 2).mean()


def pick(table: Callable[[torch.Tensor | slice], torch.Tensor], picked: Picked | None) -> torch.Tensor:
    """Return entries of a table that is computed by rows.

    Args:
        table: of some rows, [order + 1, rows, tests].
        picked: which entries; None: all.
    """
    if picked is None:
        return table(slice(None))
    distinct, place = picked[0].unique(return_inverse=True)
    return table(distinct)[:, place, picked[1]]


def tensor(array: Array) -> torch.Tensor:
    """Return an array in single precision, as torch takes it."""
    import torch  # heavy, and nothing but this kind of fit needs it

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def train(
    settings: dict[str, Any],
    draw: Callable[[np.random.Generator], Weights],
    factors: Factors,
    items: Items,
    validate: Callable[[Weights], float],
) -> Trained:
    """Train with every learning rate and return the weights whose roll-out is best on the validation runs.

    Args:
        settings: learning_rates, weight_decay, batch (items of an update; None: all at once), warmup (updates), epochs
            (at most), patience (epochs without a better roll-out before it ends), seed (of initial weights and
            shuffles; equal seeds give equal weights).
        draw: returns the initial weights.
        factors: of the parameters and some items.
        items: what is learned.
        validate: returns the all-steps MSE of weights on the validation runs; inf if a roll-out explodes.
    """
    best: Trained | None = None
    lowest = float("inf")
    for rate in settings["learning_rates"]:
        generator = np.random.default_rng(settings["seed"])
        weights, error, epochs = _train(settings, rate, draw(generator), factors, items, validate, generator)
        log.debug("learning rate %g: validation MSE %.4g, best after %d epochs", rate, error, epochs)
        if best is None or error < lowest:
            best, lowest = Trained(weights, {"learning_rate": rate, "epochs": epochs}), error
    assert best is not None
    return best


def _train(
    settings: dict[str, Any],
    rate: float,
    initial: Weights,
    factors: Factors,
    items: Items,
    validate: Callable[[Weights], float],
    generator: np.random.Generator,
) -> tuple[Weights, float, int]:
    """Return the best weights of one learning rate, their validation MSE, and after how many epochs they came."""
    import torch
    from torch.optim.adam import adam  # the function alone: the class loads torch's compiler, which takes 1.5 s

    torch.set_num_threads(1)
    parameters = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in initial.items()}
    variables = list(parameters.values())
    moments, squares = ([torch.zeros_like(variable) for variable in variables] for _ in range(2))
    steps = [torch.zeros(()) for _ in variables]
    tests = items.target.shape[1]
    number = items.target.numel()
    batch = min(settings["batch"] or number, number)
    updates, warmup = settings["epochs"] * -(-number // batch), settings["warmup"]
    done = 0
    best, lowest, best_epoch = initial, validate(initial), 0
    order = np.arange(number)
    for epoch in range(1, settings["epochs"] + 1):
        if batch < number:
            generator.shuffle(order)
        for start in range(0, number, batch):
            picked = None
            if batch < number:
                rows, columns = np.divmod(order[start : start + batch], tests)
                picked = torch.from_numpy(rows), torch.from_numpy(columns)
            loss = items.error(factors(parameters, picked), picked)
            if not torch.isfinite(loss):
                return best, lowest, best_epoch
            loss.backward()
            share = min((done + 1) / (warmup + 1), (updates - done) / max(updates - warmup, 1))
            with torch.no_grad():
                adam(
                    variables, [variable.grad for variable in variables], moments, squares, [], steps, fused=True,
                    amsgrad=False, beta1=0.9, beta2=0.999, lr=rate * share, weight_decay=settings["weight_decay"],
                    eps=1e-8, maximize=False,
                )  # fmt: skip
            for variable in variables:
                variable.grad = None
            done += 1
        weights = {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
        error = validate(weights)
        if error < lowest:
            best, lowest, best_epoch = weights, error, epoch
        # While every roll-out still explodes there is nothing to compare, and patience does not run.
        if np.isfinite(lowest) and epoch - best_epoch >= settings["patience"]:
            break
    return best, lowest, best_epoch


def linear_layer(generator: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Draw weights or biases as torch does for linear layers as wide as the last axis."""
    bound = shape[-1] ** -0.5
    return generator.uniform(-bound, bound, shape).astype(np.float32)
