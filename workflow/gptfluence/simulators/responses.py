"""Responses of test examples to what is trained on, as gradient kernels tell them, with nothing fitted in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Features, Kernels
from gptfluence.simulators.ridge import ROUNDING

Kernel = Literal["sgd", "adamw"]


def decaying_sum(values: Array, decay: float) -> Array:
    """Return y_t = decay y_{t-1} + x_t of x = `values`, [steps, ...]. SciPy's filters take a second to import."""
    found = np.array(values)
    for t in range(1, len(found)):
        found[t] += decay * found[t - 1]
    return found


class Responses(NamedTuple):
    """Every kernel with every momentum and decay.

    With c_t the shares of the examples in update t, K_t a kernel at the checkpoint before t, eta_t the learning rate:

        r_t = decay r_{t-1} - eta_t u_t' K_t
        u_t = (1 - momentum) sum_{s <= t} momentum^(t-s) c_s / (1 - momentum^t)

    Attributes:
        kernels: of the wanted names alone; read in single precision, kept in double, in which they are multiplied.
        momenta: of the average over past batches, in [0, 1); 0: the batch alone.
        decays: share of a response that is left after a step, in [0, 1].
    """

    kernels: Kernels
    momenta: tuple[float, ...]
    decays: tuple[float, ...]

    @classmethod
    def make(
        cls,
        method: str,
        features: Features,
        names: tuple[Kernel, ...],
        momenta: tuple[float, ...],
        decays: tuple[float, ...],
    ) -> Self:
        """Take the kernels from the features.

        Raises:
            UserError: there are none; the message names the method.
        """
        if features.kernels is None:
            raise UserError(f"{method}: there are no gradient kernels; the job names none")
        return cls(features.kernels.only(names).in_double(), momenta, decays)

    @property
    def columns(self) -> int:
        """How many responses a test has."""
        return len(self.kernels.values) * len(self.momenta) * len(self.decays)

    def shares(self, curricula: Curricula, run: int) -> Array:
        """Return each example's share of each batch's loss (by its target tokens), [steps, train]."""
        examples = curricula.examples[run]
        tokens = self.kernels.tokens[examples].astype(float)
        shares = np.zeros((len(examples), len(self.kernels.tokens)))
        np.add.at(shares, (np.arange(len(examples))[:, None], examples), tokens / tokens.sum(axis=1, keepdims=True))
        return shares

    def mean_shares(self, curricula: Curricula, runs: NDArray[np.bool_]) -> Array:
        """Return the mean of the shares over some runs, [steps, train]."""
        return np.mean([self.shares(curricula, run) for run in np.flatnonzero(runs)], axis=0)

    def of(self, shares: Array, rates: Array) -> Array:
        """Return the responses to shares, [steps, tests, columns].

        Args:
            shares: [steps, train]; those that are rounding count as 0.
            rates: [steps], the learning rate of each update.
        """
        found = [decaying_sum(-moves, decay) for moves in self.moves(shares, rates) for decay in self.decays]
        return np.stack(found, axis=2)

    def moves(self, shares: Array, rates: Array) -> Iterator[Array]:
        """Yield eta_t u_t' K_t of each momentum and kernel, [steps, tests]; arguments: see `of`."""
        shares = np.where(np.abs(shares) < ROUNDING, 0.0, shares)
        steps = len(shares)
        tests = next(iter(self.kernels.values.values())).shape[2]
        for momentum in self.momenta:
            averages = decaying_sum((1 - momentum) * shares, momentum)
            averages *= (rates / (1 - momentum ** np.arange(1, steps + 1)))[:, None]
            for name in self.kernels.values:
                moves = np.empty((steps, tests))
                for start, stop, kernel in self.kernels.spans(name, steps):
                    moves[start:stop] = averages[start:stop] @ kernel
                yield moves

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `from_arrays` needs."""
        values = {name: kernel.astype(np.float32) for name, kernel in self.kernels.values.items()}
        return {"checkpoints": self.kernels.steps, "tokens": self.kernels.tokens, **values}

    @classmethod
    def from_arrays(
        cls,
        arrays: dict[str, NDArray[Any]],
        names: tuple[str, ...],
        momenta: tuple[float, ...],
        decays: tuple[float, ...],
    ) -> Self:
        """Return the responses whose `arrays` these are."""
        kernels = Kernels(arrays["checkpoints"], arrays["tokens"], {name: arrays[name] for name in names})
        return cls(kernels.in_double(), momenta, decays)
