from typing import Any

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.rates import rates_of
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Kernels, Part
from gptfluence.simulators.pooled import PooledResponse, TimeCurve
from gptfluence.simulators.registry import make_method, make_pooled
from gptfluence.words import LEVELS
from synthetic import METHOD_SETTINGS, planted

OWN = {"learning_rate": 1e-3, "schedule": "linear", "warmup": 0.0}
STEPS, BATCH, TRAIN, TESTS = 24, 4, 12, 5
SETTINGS = {"kernels": ("sgd",), "momenta": (0.5,), "decays": (1.0, 0.6), "strengths": (1e-12, 1.0)}
OWN_RATES = rates_of(OWN, STEPS)


class World:
    """Losses that fall by what kernels say, each update by its own learning rate, on top of a curve of optimiser time.

    A part of each effect is forgotten as the rates are spent; the kernel changes once half of a usual run's are.
    Effects are those of shares beyond the usual ones, which are the mean over the fitting runs of `PARTS`.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.tokens = rng.integers(1, 6, TRAIN)
        self.first, self.slope = rng.uniform(2, 4, TESTS), rng.uniform(100, 300, TESTS)
        before = np.concatenate([[0.0], np.cumsum(OWN_RATES)])
        self.middle, self.unit = before[STEPS // 2], OWN_RATES.mean()
        kernel = rng.normal(size=(2, TRAIN, TESTS)).astype(np.float32)
        kernels = Kernels(np.array([0, STEPS // 2]), self.tokens, {"sgd": kernel})
        self.kernel = kernel.astype(float)
        tasks = np.array([0, 0, 0, 1, 1])
        self.features = Features(np.zeros((TRAIN, 0)), np.zeros((TESTS, 0)), kernels=kernels, test_task=tasks)
        fitting = [curricula.examples[:-1] for curricula in map(draw, *zip(*DRAWN.values(), strict=True))]
        self.usual = np.mean([self.shares(run).mean(axis=0) for part in fitting for run in part], axis=0)

    def shares(self, batches: np.ndarray) -> Array:
        found = np.zeros((len(batches), TRAIN))
        for t, batch in enumerate(batches):
            for example in batch:
                found[t, example] += self.tokens[example] / self.tokens[batch].sum()
        return found

    def train(self, curricula: Curricula) -> Part:
        """Train runs, one number after the other; the last validates."""
        runs, steps, _ = curricula.examples.shape
        values = np.empty((runs, steps + 1, TESTS))
        for run, rates in enumerate(curricula.rates):
            values[run, 0] = self.first
            shares = self.shares(curricula.examples[run]) - self.usual
            lasting, passing, spent = np.zeros(TESTS), np.zeros(TESTS), 0.0
            for t, rate in enumerate(rates):
                weights = 0.5 ** np.arange(t, -1, -1)
                average = weights @ shares[: t + 1] / weights.sum()
                move = rate * average @ self.kernel[int(spent >= self.middle * (1 - 1e-9))]
                lasting, passing = lasting - move, 0.6 ** (rate / self.unit) * passing - move
                spent += rate
                values[run, t + 1] = self.first - self.slope * spent + 40 * lasting + 70 * passing
        return Part(Dynamics(values, np.arange(runs) == runs - 1), curricula)


def draw(runs: int, settings: dict[str, Any]) -> Curricula:
    batch = settings.get("batch", BATCH)
    steps = STEPS * BATCH // batch
    examples = np.random.default_rng([runs, steps]).integers(0, TRAIN, (runs, steps, batch))
    return Curricula(examples, np.tile(rates_of(OWN | settings, steps), (runs, 1)))


DRAWN: dict[str, tuple[int, dict[str, Any]]] = {
    "own": (6, {}),
    "half": (4, {"learning_rate": 5e-4}),
    "constant": (5, {"schedule": "constant"}),
    "large": (4, {"batch": 8}),
}
WORLD = World()
PARTS = {name: WORLD.train(draw(*drawn)) for name, drawn in DRAWN.items()}


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 1.6e-3}, {"schedule": "cosine", "warmup": 0.2}, {"batch": 2, "learning_rate": 9e-4}],
    ids=str,
)
def test_an_unseen_schedule_is_predicted_exactly(settings: dict[str, Any]) -> None:
    simulator = PooledResponse(**SETTINGS, rates=OWN_RATES)
    simulator.fit_parts(list(PARTS.values()), WORLD.features)
    fresh = WORLD.train(draw(3, settings))
    truth = fresh.dynamics.values
    simulated = simulator.simulate(fresh.curricula, truth[:, :1])
    assert simulator.chosen.tolist() == [1e-12, 1e-12]
    apart = truth - truth.mean(axis=0)
    assert np.abs(simulated - truth).max() < 1e-4 * np.abs(apart).max()
    # The curve alone knows the drift, and nothing of what the runs trained on.
    curve = TimeCurve()
    curve.fit_parts(list(PARTS.values()), WORLD.features)
    missed = curve.simulate(fresh.curricula, truth[:, :1]) - truth
    assert np.square(missed).mean() > 100 * np.square(simulated - truth).mean()


def test_the_curve_follows_optimiser_time_and_the_averaged_rate() -> None:
    """Losses that are straight lines in both are found again, and stay behind the longest run of the fit."""

    def lines(curricula: Curricula) -> Array:
        averaged = np.stack([[np.average(r[: t + 1], weights=0.9 ** np.arange(t, -1, -1)) for t in range(len(r))]
                             for r in curricula.rates])  # fmt: skip
        spent = np.minimum(np.cumsum(curricula.rates, axis=1), OWN_RATES.sum())
        moved = -100 * spent + 300 * averaged
        return np.concatenate([np.full((len(moved), 1), 2.0), 2 + moved], axis=1)[:, :, None]

    curve = TimeCurve()
    drawn = [draw(2, settings) for settings in ({}, {"learning_rate": 5e-4}, {"batch": 8})]
    curve.fit_parts([Part(Dynamics(lines(c), np.array([False, True])), c) for c in drawn], WORLD.features)
    for settings in ({"schedule": "cosine", "warmup": 0.3}, {"learning_rate": 7e-4}, {"learning_rate": 2e-3}):
        fresh = draw(1, settings)
        expected = lines(fresh)
        np.testing.assert_allclose(curve.simulate(fresh, expected[:, :1]), expected, atol=1e-5)


def noisy(parts: dict[str, Part], noise: float) -> dict[str, Part]:
    """Add noise to each step after the first, more to the later ones and to the first test."""
    found = {}
    for name, (dynamics, curricula) in parts.items():
        rng = np.random.default_rng([len(name), int(1e6 * noise)])
        values = dynamics.values.copy()
        size = noise * np.cumsum(curricula.rates[0])[:, None] / OWN_RATES.sum() * np.array([4, 1, 1, 1, 1])
        values[:, 1:] += size * rng.normal(size=values[:, 1:].shape)
        found[name] = Part(Dynamics(values, dynamics.validate), curricula)
    return found


def test_intervals_hold_as_many_values_of_fresh_runs_as_they_say() -> None:
    simulator = PooledResponse(**SETTINGS, rates=OWN_RATES)
    simulator.fit_parts(list(noisy(PARTS, 0.05).values()), WORLD.features)
    fresh = noisy({name: WORLD.train(draw(60, settings)) for name, (_, settings) in DRAWN.items()}, 0.05)
    inside = []
    for dynamics, curricula in fresh.values():
        missed = np.abs(simulator.simulate(curricula, dynamics.values[:, :1]) - dynamics.values)[:, 1:]
        widths = simulator.half_widths(curricula)
        assert widths.shape == (3, *dynamics.values.shape) and not widths[:, :, 0].any()
        inside.append((missed <= widths[:, :, 1:]).mean(axis=(1, 2, 3)))
        # They are wider where there is more noise: late, and in the first test.
        assert (widths[1, :, -1] > 2 * widths[1, :, 1]).all()
        assert (widths[1, :, -1, 0] > 2 * widths[1, :, -1, 1]).all()
    np.testing.assert_allclose(np.mean(inside, axis=0), LEVELS, atol=0.05)


def test_errors_of_one_run_alone_are_not_known() -> None:
    dynamics, curricula = PARTS["half"]
    two = Part(Dynamics(dynamics.values[2:], dynamics.validate[2:]), curricula.of(np.array([2, 3])))
    simulator = PooledResponse(**SETTINGS, rates=OWN_RATES)
    simulator.fit_parts([two], WORLD.features)
    assert simulator.half_widths(curricula) is None


def test_needs_runs_and_kernels() -> None:
    simulator = PooledResponse(**SETTINGS, rates=OWN_RATES)
    with pytest.raises(UserError, match="no gradient kernels"):
        simulator.fit_parts(list(PARTS.values()), Features(np.zeros((TRAIN, 0)), np.zeros((TESTS, 0))))
    dynamics, curricula = PARTS["half"]
    alone = Part(Dynamics(dynamics.values, np.zeros(4, bool)), curricula)
    with pytest.raises(UserError, match="there are 4 and 0"):
        simulator.fit_parts([PARTS["own"], alone], WORLD.features)


def test_gptfluence_reads_runs_of_several_lengths_step_by_step() -> None:
    """Cut in two, runs hold the same steps: of the first order the fit is the same where there is nothing to choose."""
    dynamics, curricula, features = planted(steps=12)
    settings = METHOD_SETTINGS["gptfluence"] | {"order": 1, "strengths": (1e-9,)}
    whole = make_method("whole", settings)
    whole.fit(dynamics, curricula, features)
    cut = make_pooled("cut", settings, curricula.rates[0])
    halves = [
        Part(Dynamics(dynamics.values[:, at], dynamics.validate),
             Curricula(curricula.examples[:, at.start : at.stop - 1], curricula.rates[:, at.start : at.stop - 1]))
        for at in (slice(0, 6), slice(5, 13))
    ]  # fmt: skip
    cut.fit_parts(halves, features)
    first = dynamics.values[:, :1]
    np.testing.assert_allclose(cut.simulate(curricula, first), whole.simulate(curricula, first), rtol=1e-5)


@pytest.mark.parametrize("name", ["simfluence", "gptfluence_mlp", "gptfluence_each"])
def test_other_kinds_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}': cannot be fitted on several schedules at once"):
        make_pooled(name, METHOD_SETTINGS[name], OWN_RATES)
