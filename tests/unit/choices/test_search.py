"""The search for the curriculum that a simulator likes best, against trying all of them."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest
from gptfluence.choices.search import (
    Space,
    assign,
    exchange,
    final_effects,
    search,
    share_objective,
    simulated_objective,
)
from gptfluence.simulators.base import UNBOUNDED, Curricula, Dynamics, Features, Simulator, linear_decay
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.registry import make_method
from synthetic import METHOD_SETTINGS, planted

TINY = Space(steps=4, batch=1, budget=2, strata=np.zeros(4, np.int64))
LABELS = Space(steps=4, batch=1, budget=2, strata=np.array([0, 1, 1, 0]))


def fitted(method: str, even: bool = False) -> tuple[Simulator, np.ndarray, np.ndarray]:
    """Return a simulator of planted dynamics, learning rates, first values; even: all targets are equally long."""
    dynamics, curricula, features = planted()
    if even and features.kernels is not None:
        features.kernels.tokens[:] = 3
    simulator = make_method(method, METHOD_SETTINGS[method])
    simulator.fit(dynamics, curricula, features)
    return simulator, curricula.rates[0], dynamics.values[:-2, : simulator.start].mean(axis=0)


def everything(space: Space) -> np.ndarray:
    """Return every curriculum of batches of 1."""
    found = []
    for examples in combinations(range(space.pool), space.budget):
        if np.bincount(space.strata[list(examples)], minlength=len(space.quotas)).tolist() != space.quotas.tolist():
            continue
        found += list(product(permutations(examples), repeat=space.epochs))
    return np.array(found).reshape(len(found), space.steps, 1)


def is_in(space: Space, curriculum: np.ndarray) -> bool:
    epochs = np.sort(curriculum.reshape(space.epochs, space.budget), axis=1)
    return bool(
        curriculum.shape == (space.steps, space.batch)
        and (epochs == epochs[0]).all()
        and len(set(epochs[0])) == space.budget
        and (np.bincount(space.strata[epochs[0]], minlength=len(space.quotas)) == space.quotas).all()
        and curriculum.min() >= 0
        and curriculum.max() < space.pool
    )


def test_random_curricula_are_in_the_space() -> None:
    space, generator = Space(6, 2, 4, np.zeros(9, np.int64)), np.random.default_rng(0)
    drawn = [space.draw(generator) for _ in range(50)]
    assert all(is_in(space, curriculum) for curriculum in drawn)
    assert {i for curriculum in drawn for i in curriculum.ravel().tolist()} == set(range(9))
    assert any((curriculum[:2] != curriculum[2:4]).any() for curriculum in drawn)


def test_a_ranking_is_followed_within_the_quotas() -> None:
    space = Space(6, 2, 4, np.array([0, 1, 1, 1, 0, 1, 1, 1, 1]))
    assert space.quotas.tolist() == [1, 3]
    assert space.first(np.array([4, 8, 0, 1, 2, 3, 5, 6, 7])).tolist() == [1, 2, 4, 8]
    assert all(is_in(space, space.draw(np.random.default_rng(seed))) for seed in range(20))


def test_final_effects_are_what_simulations_differ_by() -> None:
    """Two kernels, momenta and decays, three checkpoints, two tasks of unequal weights, targets of unequal lengths."""
    simulator, rates, first = fitted("gradient_response")
    assert isinstance(simulator, GradientResponse)
    simulator.replicas = simulator.replicas[:, :0]  # all that is predicted is believed
    simulator.extent = UNBOUNDED  # and losses below 0 are kept
    effects = final_effects(simulator, rates)
    candidates = np.random.default_rng(3).integers(24, size=(20, 30, 4))
    simulated = simulator.simulate(Curricula(candidates, np.tile(rates, (20, 1))), np.tile(first, (20, 1, 1)))
    expected = simulated[:, -1].mean(axis=1)
    found = share_objective(effects, simulator.responses.kernels.tokens)(candidates)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-12)
    np.testing.assert_allclose(simulated_objective(simulator, rates, first)(candidates), expected)


@pytest.mark.parametrize("space", [TINY, LABELS])
@pytest.mark.parametrize("seed", range(5))
def test_the_integer_program_finds_what_trying_all_finds(seed: int, space: Space) -> None:
    costs = np.random.default_rng(seed).normal(size=(4, 4))
    found = assign(space, costs)
    assert is_in(space, found)
    sums = costs[np.arange(4), everything(space)[:, :, 0]].sum(axis=1)
    assert costs[np.arange(4), found[:, 0]].sum() == pytest.approx(sums.min())
    # Not the best of each epoch by itself: what is chosen is chosen for all of them.
    alone = [min(sum(costs[e * 2 + np.arange(2), list(p)]) for p in permutations(range(4), 2)) for e in range(2)]
    assert sum(alone) <= sums.min() + 1e-12


def test_the_integer_program_fills_batches() -> None:
    space = Space(6, 3, 6, np.zeros(10, np.int64))
    costs = np.random.default_rng(1).normal(size=(space.steps, space.pool))
    found = assign(space, costs)
    assert is_in(space, found)
    value = costs[np.arange(6)[:, None], found].sum()
    generator = np.random.default_rng(2)
    drawn = [space.draw(generator) for _ in range(500)]
    assert value < min(costs[np.arange(6)[:, None], curriculum].sum() for curriculum in drawn)
    assert is_in(space, assign(space, np.zeros_like(costs)))


@pytest.mark.parametrize("space", [TINY, LABELS])
def test_exchange_finds_what_trying_all_finds(space: Space) -> None:
    """An objective that no assignment expresses: what counts is which examples follow each other."""
    pairs = np.random.default_rng(7).normal(size=(4, 4))

    def objective(candidates: np.ndarray) -> np.ndarray:
        order = candidates[:, :, 0]
        return pairs[order[:, :-1], order[:, 1:]].sum(axis=1)

    best = objective(everything(space)).min()
    ends = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        start = space.draw(generator)
        found = exchange(space, start, objective, generator)
        assert is_in(space, found)
        assert objective(found[None])[0] <= objective(start[None])[0]
        ends.append(objective(found[None])[0])
    assert min(ends) == pytest.approx(best)


def test_exchange_of_all_the_pool_changes_the_order_alone() -> None:
    space, generator = Space(6, 2, 4, np.zeros(4, np.int64)), np.random.default_rng(0)

    def objective(candidates: np.ndarray) -> np.ndarray:
        return (candidates.sum(axis=2) * np.arange(6)).sum(axis=1).astype(float)

    found = exchange(space, space.draw(generator), objective, generator)
    assert is_in(space, found)
    assert np.sort(found.reshape(3, 2, 2), axis=2).tolist() == [[[2, 3], [0, 1]]] * 3  # the large ones first


@pytest.mark.parametrize("method", ["gradient_response", "gptfluence", "simfluence"])
def test_what_is_found_is_better_than_many_random_ones(method: str) -> None:
    simulator, rates, first = fitted(method)
    space = Space(30, 4, 12, np.zeros(20, np.int64))
    found = search(simulator, space, rates, first, np.random.default_rng(0))
    assert is_in(space, found)
    objective, generator = simulated_objective(simulator, rates, first), np.random.default_rng(1)
    drawn = objective(np.stack([space.draw(generator) for _ in range(300)]))
    assert objective(found[None])[0] < min(drawn.min(), drawn.mean() - 3 * drawn.std())
    again = search(simulator, space, rates, first, np.random.default_rng(0))
    assert again.tolist() == found.tolist()


def test_with_equal_lengths_no_exchange_betters_the_integer_program() -> None:
    simulator, rates, _ = fitted("gradient_response", even=True)
    assert isinstance(simulator, GradientResponse)
    space = Space(30, 4, 12, np.zeros(20, np.int64))
    effects = final_effects(simulator, rates)[:, :20]
    objective = share_objective(effects, np.full(20, 3))
    exact = objective(assign(space, effects / 4)[None])[0]
    climbed = exchange(space, space.draw(np.random.default_rng(5)), objective, np.random.default_rng(5))
    assert exact <= objective(climbed[None])[0] + 1e-3 * abs(exact)


def test_what_explodes_is_never_chosen() -> None:
    """A simulator whose loss falls to minus infinity on example 0, and else is the sum of what it is trained on."""

    class Exploding(Simulator):
        def fit(self, dynamics: Dynamics, curricula: Curricula, features: Features) -> None: ...

        def simulate(self, curricula: Curricula, first_values: np.ndarray) -> np.ndarray:
            sums = curricula.examples.sum(axis=2).cumsum(axis=1).astype(float)
            sums[(curricula.examples == 0).any(axis=2).any(axis=1)] = -np.inf
            return np.concatenate([first_values, sums[..., None]], axis=1)

        def state(self) -> tuple: ...

        @classmethod
        def from_state(cls, arrays: dict, values: dict) -> Simulator: ...

    found = search(Exploding(), TINY, linear_decay(1.0, 4), np.zeros((1, 1)), np.random.default_rng(0))
    assert set(found.ravel().tolist()) == {1, 2}
