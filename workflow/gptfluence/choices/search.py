"""Searches curricula for the one after which a simulator predicts the lowest loss.

A curriculum trains on `budget` examples of the pool, all of them once in each epoch, as drawn ones do: what is free is
which examples (so many of each label, see `strata`), and their order in each epoch.

Gradient response is linear in the examples' shares of the batches, but for how much of its predictions it believes, so
what example i in batch t does to the last loss is a matrix, `final_effects`. Were all targets equally long, a share
would be one over the batch, and the best curriculum the solution of an integer program: an assignment of examples to
batches for each epoch, which have their examples in common. It is solved to a gap of GAP. Targets of different lengths
make the shares depend on who else is in the batch; from the program's solution on, `exchange` then looks for better
ones with the true shares.

Of other simulators nothing is assumed: `exchange` climbs from the best of some random curricula, and ends where no move
of those it tries is better, which need not be the best of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gptfluence.choices.strata import share_out
from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Simulator
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.responses import decaying_sum

Examples = NDArray[np.int64]
Objective = Callable[[Examples], Array]
"""Of curricula, [candidates, steps, batch]: what is to be low, [candidates]."""

GAP = 1e-3
"""How far from the best the integer program's solution may be, relative to its value."""
CANDIDATES = 256
"""Curricula that are compared in a round of `exchange`."""
PATIENCE = 20
"""Rounds without a better one after which it ends."""
_ROUNDING = 1e-9  # relative; what is better by less is not


@dataclass(frozen=True)
class Space:
    """The curricula to choose from.

    Attributes:
        steps, batch: of every curriculum.
        budget: how many examples of the pool each trains on; a multiple of `batch` that divides all places.
        strata: [pool], number of each example's stratum, whose share of the chosen ones is fixed; see `share_out`.
    """

    steps: int
    batch: int
    budget: int
    strata: NDArray[np.int64]

    @property
    def pool(self) -> int:
        """How many examples there are to choose from, numbers 0 to pool - 1."""
        return len(self.strata)

    @cached_property
    def quotas(self) -> NDArray[np.int64]:
        """How many examples of each stratum are chosen."""
        return share_out(self.strata, self.budget)

    @property
    def epochs(self) -> int:
        """How often each example is trained on."""
        return self.steps * self.batch // self.budget

    def arrange(self, examples: Examples, generator: np.random.Generator) -> Examples:
        """Put some examples, [budget], into a fresh order in each epoch; return [steps, batch]."""
        return np.concatenate([generator.permutation(examples) for _ in range(self.epochs)]).reshape(self.steps, -1)

    def draw(self, generator: np.random.Generator) -> Examples:
        """Return a random curriculum, [steps, batch]."""
        drawn = generator.permutation(self.pool)
        return self.arrange(self.first(drawn), generator)

    def first(self, ranked: Examples) -> Examples:
        """Return the first of the pool's examples in an order, [pool], that fill the quotas; by number, [budget]."""
        found = [ranked[self.strata[ranked] == stratum][:quota] for stratum, quota in enumerate(self.quotas)]
        return np.sort(np.concatenate(found))


def search(
    simulator: Simulator,
    space: Space,
    rates: Array,
    first_values: Array,
    generator: np.random.Generator,
    each_round: Callable[[int], object] = int,
) -> Examples:
    """Return the curriculum with the lowest mean last value that is found, [steps, batch].

    Args:
        simulator: fitted; all its tests count alike.
        space: the curricula to choose from.
        rates: [steps], learning rate of each update.
        first_values: [start, tests], what simulations start from.
        generator: of starts and moves.
        each_round: is called with the number of rounds of `exchange` that are done.
    """
    if isinstance(simulator, GradientResponse):
        effects, tokens = final_effects(simulator, rates), simulator.responses.kernels.tokens
        typical = tokens[: space.pool].mean() * space.batch
        start = assign(space, effects[:, : space.pool] * tokens[: space.pool] / typical)
        return exchange(space, start, share_objective(effects, tokens), generator, each_round)
    objective = simulated_objective(simulator, rates, first_values)
    starts = np.stack([space.draw(generator) for _ in range(CANDIDATES)])
    return exchange(space, starts[objective(starts).argmin()], objective, generator, each_round)


def simulated_objective(simulator: Simulator, rates: Array, first_values: Array) -> Objective:
    """Return the mean last value that a simulator predicts; inf where a roll-out explodes. Arguments: see `search`."""

    def objective(candidates: Examples) -> Array:
        count = len(candidates)
        curricula = Curricula(candidates, np.tile(rates, (count, 1)))
        values = simulator.simulate(curricula, np.repeat(first_values[None], count, axis=0))[:, -1].mean(axis=1)
        return np.where(np.isfinite(values), values, np.inf)

    return objective


def share_objective(effects: Array, tokens: NDArray[np.int64]) -> Objective:
    """Return the sum of effects, each times the example's share of its batch's tokens.

    Args:
        effects: [steps, train], see `final_effects`.
        tokens: [train], how many of each example are trained on.
    """

    def objective(candidates: Examples) -> Array:
        shares = tokens[candidates] / tokens[candidates].sum(axis=2, keepdims=True)
        return (shares * effects[np.arange(len(effects))[:, None], candidates]).sum(axis=(1, 2))

    return objective


def final_effects(simulator: GradientResponse, rates: Array) -> Array:
    """Return what a share of 1 of each training example in each batch adds to the mean last value, [steps, train].

    This is the adjoint of `Responses.of`, times the fitted weights; rates: [steps], learning rate of each update.
    """
    responses, steps = simulator.responses, len(rates)
    tests, places = len(simulator.task), np.arange(steps)
    effects = np.zeros((steps, len(responses.kernels.tokens)))
    columns = iter(simulator.weights[simulator.task].T)  # [tests] each, in the order of `Responses.of`
    for momentum in responses.momenta:
        scale = rates / (1 - momentum ** (places + 1))
        for name in responses.kernels.values:
            left = np.zeros_like(effects)  # what is left at the end of what the averages of batches do
            for decay in responses.decays:
                weights = next(columns) / tests
                moves = -scale * decay ** (steps - 1 - places)
                for start, stop, kernel in responses.kernels.spans(name, steps):
                    left[start:stop] += np.outer(moves[start:stop], kernel @ weights)
            effects += decaying_sum((1 - momentum) * left[::-1], momentum)[::-1]
    return effects


def assign(space: Space, costs: Array) -> Examples:
    """Return the curriculum whose costs add up to the least, but for GAP, by an integer program.

    Unknowns are whether example i is in batch t, and whether it is chosen. Each batch is full, a chosen example stands
    in one batch of each epoch, and of each stratum as many are chosen as its quota.

    Args:
        space: the curricula to choose from.
        costs: [steps, pool], of an example in a batch.

    Raises:
        UserError: the program was not solved.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # a second's import, for this alone
    from scipy.sparse import block_array, csr_array, eye_array, kron

    steps, pool, epochs = space.steps, space.pool, space.epochs
    of_epoch = kron(eye_array(epochs), np.ones((1, steps // epochs)))  # [epochs, steps]
    constraints = block_array(
        [
            [kron(eye_array(steps), np.ones((1, pool))), None],
            [kron(of_epoch, eye_array(pool)), kron(np.ones((epochs, 1)), -eye_array(pool))],
            [None, csr_array(space.strata == np.arange(len(space.quotas))[:, None], dtype=float)],
        ],
        format="csr",
    )
    right = np.concatenate([np.full(steps, space.batch), np.zeros(epochs * pool), space.quotas])
    scale = np.abs(costs).max() or 1.0
    solved = milp(
        np.concatenate([costs.ravel() / scale, np.zeros(pool)]),
        integrality=np.ones(steps * pool + pool),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(csr_array(constraints), right, right),
        options={"mip_rel_gap": GAP},
    )
    if solved.x is None:
        raise UserError(f"no best curriculum was found: {solved.message}")
    placed = solved.x[: steps * pool].reshape(steps, pool) > 0.5
    return np.nonzero(placed)[1].reshape(steps, space.batch)


def exchange(
    space: Space,
    start: Examples,
    objective: Objective,
    generator: np.random.Generator,
    each_round: Callable[[int], object] = int,
) -> Examples:
    """Improve a curriculum, [steps, batch], move by move, each the best of CANDIDATES random ones.

    A move lets two examples of an epoch change places, or puts an example from outside in the place of a chosen one of
    its stratum.
    """
    best, lowest, patience, rounds = start, objective(start[None])[0], PATIENCE, 0
    while patience:
        each_round(rounds)
        rounds += 1
        candidates = _moves(space, best, generator)
        values = objective(candidates)
        leading = values.argmin()
        if values[leading] < lowest - _ROUNDING * abs(lowest):
            best, lowest, patience = candidates[leading], values[leading], PATIENCE
        else:
            patience -= 1
    return best


def _moves(space: Space, curriculum: Examples, generator: np.random.Generator) -> Examples:
    """Return CANDIDATES curricula, each one move away; half of them train on another example."""
    inside = np.unique(curriculum)
    outside = np.setdiff1d(np.arange(space.pool), inside)
    pairs = np.argwhere(space.strata[inside][:, None] == space.strata[outside])
    moved = np.tile(curriculum.ravel(), (CANDIDATES, 1))
    others = CANDIDATES // 2 if len(pairs) else 0
    if others:
        out, new = generator.choice(pairs, others).T[..., None]
        out, new = inside[out], outside[new]
        moved[:others] = np.where(moved[:others] == out, new, moved[:others])
    row = np.arange(others, CANDIDATES)
    first = generator.integers(space.budget, size=len(row))
    second = (first + generator.integers(1, space.budget, size=len(row))) % space.budget
    epoch = generator.integers(space.epochs, size=len(row)) * space.budget
    first, second = epoch + first, epoch + second
    moved[row, first], moved[row, second] = moved[row, second], moved[row, first]
    return moved.reshape(-1, *curriculum.shape)
