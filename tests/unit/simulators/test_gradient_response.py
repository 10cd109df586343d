from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gptfluence.attribution.kernel_file import KernelFile, write_kernel_file
from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features
from gptfluence.simulators.data import load_group
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.fit import fit_simulator
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.predicted_curve import PredictedCurve
from gptfluence.simulators.rollout import all_steps_mse, validation_mse
from gptfluence.simulators.simulate import simulate_runs
from gptfluence.words import LEVELS
from synthetic import chosen_runs, planted, split, write_group

STRENGTHS = (1e-6, 1e-4, 1e-2, 1.0, 100.0)
SETTINGS = {"kernels": ("sgd", "adamw"), "momenta": (0.0, 0.9), "decays": (1.0, 0.7, 0.0), "strengths": STRENGTHS}


def shares_by_definition(curricula: Curricula, features: Features, fitting: np.ndarray) -> Array:
    """Return shares of batches less their mean over fitting runs, [runs, steps, train]."""
    kernels = features.kernels
    assert kernels is not None
    runs, steps, _ = curricula.examples.shape
    shares = np.zeros((runs, steps, kernels.values["sgd"].shape[1]))
    for r in range(runs):
        for t in range(steps):
            batch = curricula.examples[r, t]
            for i in batch:
                shares[r, t, i] += kernels.tokens[i] / sum(kernels.tokens[j] for j in batch)
    return shares - shares[fitting].mean(axis=0)


def by_definition(curricula: Curricula, features: Features, fitting: np.ndarray) -> Array:
    """Return r_kt(z) as the module's docstring has it, one number after the other: [runs, steps, tests, responses]."""
    kernels = features.kernels
    assert kernels is not None
    shares = shares_by_definition(curricula, features, fitting)
    runs, steps, _ = shares.shape
    tests = kernels.values["sgd"].shape[2]
    found = []
    for momentum in SETTINGS["momenta"]:
        for name in SETTINGS["kernels"]:
            for decay in SETTINGS["decays"]:
                response = np.zeros((runs, steps, tests))
                for r in range(runs):
                    now = np.zeros(tests)
                    for t in range(steps):
                        past = sum(momentum ** (t - s) * shares[r, s] for s in range(t + 1))
                        average = (1 - momentum) * past / (1 - momentum ** (t + 1))
                        at = int(np.flatnonzero(kernels.steps <= t)[-1])
                        now = decay * now - curricula.rates[r, t] * average @ kernels.values[name][at]
                        response[r, t] = now
                found.append(response)
    return np.stack(found, axis=-1)


def test_equals_its_definition_with_ridge_by_normal_equations() -> None:
    dynamics, curricula, features = planted(runs=7, steps=9, batch=3, train=10, tests=5)
    fitting = ~dynamics.validate
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, curricula, features)
    responses = by_definition(curricula, features, fitting)
    curve = dynamics.values[fitting].mean(axis=0)
    expected = np.repeat(curve[None], 7, axis=0)
    chosen = []
    for task in (0, 1):
        tests = features.test_task == task
        x, y = responses[:, :, tests], (dynamics.values - curve)[:, 1:, tests]
        a, b = x[fitting].reshape(-1, x.shape[-1]), y[fitting].ravel()
        scale, height = np.sqrt(np.mean(a**2, axis=0)), np.sqrt(np.mean(b**2))
        errors, fits = [], []
        for strength in STRENGTHS:
            gram = (a / scale).T @ (a / scale) / len(a) + strength * np.eye(a.shape[1])
            weights = np.linalg.solve(gram, (a / scale).T @ b / height / len(a)) * height / scale
            fits.append(x @ weights)
            errors.append(np.mean((fits[-1] - y)[dynamics.validate] ** 2))
        best = int(np.argmin(errors))
        chosen.append(STRENGTHS[best])
        replicas = []
        for left_out in np.flatnonzero(fitting):  # the same fit on the other runs, from their own mean curve and shares
            kept = fitting & (np.arange(7) != left_out)
            a = by_definition(curricula, features, kept)[kept][:, :, tests].reshape(-1, x.shape[-1])
            b = (dynamics.values[kept] - dynamics.values[kept].mean(axis=0))[:, 1:, tests].ravel()
            scale, height = np.sqrt(np.mean(a**2, axis=0)), np.sqrt(np.mean(b**2))
            gram = (a / scale).T @ (a / scale) / len(a) + STRENGTHS[best] * np.eye(a.shape[1])
            weights = np.linalg.solve(gram, (a / scale).T @ b / height / len(a)) * height / scale
            replicas.append(x @ weights)
        variance = (len(replicas) - 1) / len(replicas) * np.sum((replicas - np.mean(replicas, axis=0)) ** 2, axis=0)
        square, variance = (fits[best] ** 2).mean(axis=(1, 2)), variance.mean(axis=(1, 2))
        believed = square / (square + variance)
        assert (believed < 0.9999).all() and (believed > 0.1).all()
        expected[:, 1:, tests] += believed[:, None, None] * fits[best]
    assert simulator.chosen.tolist() == chosen
    first = dynamics.values[:, :1]
    expected[:, :1] = first
    np.testing.assert_allclose(simulator.simulate(curricula, first), expected, rtol=1e-5)


def test_one_response_is_tracin_less_its_mean() -> None:
    """Momentum 0, decay 1, weight 1: what products of gradients take off the loss, added up."""
    dynamics, curricula, features = planted(runs=5, steps=6)
    simulator = GradientResponse(("sgd",), (0.0,), (1.0,), (1.0,))
    simulator.fit(dynamics, curricula, features)
    simulator.weights, simulator.replicas = np.ones((2, 1)), np.ones((2, 3, 1))
    moves = np.zeros((5, 6, 7))
    assert features.kernels is not None
    tokens = features.kernels.tokens
    for (r, t), rate in np.ndenumerate(curricula.rates):
        batch = curricula.examples[r, t]
        at = int(np.flatnonzero(features.kernels.steps <= t)[-1])
        moves[r, t] = -rate * tokens[batch] @ features.kernels.values["sgd"][at][batch] / tokens[batch].sum()
    total = moves.cumsum(axis=1)
    expected = simulator.known.curve[1:] + total - total[~dynamics.validate].mean(axis=0)
    np.testing.assert_allclose(simulator.simulate(curricula, dynamics.values[:, :1])[:, 1:], expected, rtol=1e-10)


def test_beats_the_mean_curve_and_needs_the_curriculum() -> None:
    known, fitted, measured, fresh = split_of(planted(runs=24))
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(known[0], fitted, known[1])
    first = measured[:, :1]
    curve = np.repeat(simulator.known.curve[None], len(measured), axis=0)
    mean = all_steps_mse(curve, measured, 1)
    shuffled = replace(fresh, examples=np.random.default_rng(3).permutation(24)[fresh.examples])
    assert all_steps_mse(simulator.simulate(fresh, first), measured, 1) < 0.5 * mean
    assert all_steps_mse(simulator.simulate(shuffled, first), measured, 1) > 0.8 * mean


def split_of(
    made: tuple[Dynamics, Curricula, Features], held: int = 4
) -> tuple[tuple[Dynamics, Features], Curricula, Array, Curricula]:
    dynamics, fitted, measured, fresh = split(made[0], made[1], held)
    return (dynamics, made[2]), fitted, measured, fresh


def test_held_out_values_move_nothing_and_the_given_value_stands() -> None:
    dynamics, curricula, features = planted(runs=6)
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, curricula, features)
    first = dynamics.values[:, :1]
    other = simulator.simulate(curricula, first + 1)
    np.testing.assert_array_equal(other[:, 1:], simulator.simulate(curricula, first)[:, 1:])
    np.testing.assert_array_equal(other[:, :1], first + 1)


def test_the_unit_of_the_metric_does_not_matter() -> None:
    dynamics, curricula, features = planted(runs=8)
    one, hundred = GradientResponse(**SETTINGS), GradientResponse(**SETTINGS)
    one.fit(dynamics, curricula, features)
    hundred.fit(Dynamics(100 * dynamics.values, dynamics.validate), curricula, features)
    first = dynamics.values[:, :1]
    simulated = hundred.simulate(curricula, 100 * first)
    np.testing.assert_allclose(simulated, 100 * one.simulate(curricula, first), rtol=1e-8)


def test_any_strength_gives_finite_simulations_and_a_large_one_the_mean_curve() -> None:
    dynamics, curricula, features = planted(runs=5)
    for strength in (1e-12, 1e-3, 1e12):
        simulator = GradientResponse(**SETTINGS | {"strengths": (strength,)})
        simulator.fit(dynamics, curricula, features)
        simulated = simulator.simulate(curricula, dynamics.values[:, :1])
        assert np.isfinite(simulated).all()
    np.testing.assert_allclose(simulated[:, 1:], np.repeat(simulator.known.curve[None, 1:], 5, axis=0), rtol=1e-6)


@pytest.mark.parametrize("what", ["one run", "constant metric", "zero kernels", "equal curricula"])
def test_where_nothing_can_be_learned_it_is_the_mean_curve(what: str) -> None:
    dynamics, curricula, features = planted(runs=5)
    assert features.kernels is not None
    if what == "one run":
        keep = np.array([True, False, False, False, True])
        dynamics, curricula = Dynamics(dynamics.values[keep], dynamics.validate[keep]), curricula.of(keep)
    if what == "constant metric":
        dynamics = replace(dynamics, values=np.full_like(dynamics.values, 2.5))
    if what == "zero kernels":
        zeros = {name: np.zeros_like(kernel) for name, kernel in features.kernels.values.items()}
        features = replace(features, kernels=replace(features.kernels, values=zeros))
    if what == "equal curricula":
        curricula = replace(curricula, examples=np.repeat(curricula.examples[:1], 5, axis=0))
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, curricula, features)
    runs = curricula.of(dynamics.validate)
    simulated = simulator.simulate(runs, dynamics.values[dynamics.validate, :1])
    np.testing.assert_allclose(simulated[:, 1:], np.repeat(simulator.known.curve[None, 1:], len(simulated), axis=0))


def test_without_kernels_or_with_another_length() -> None:
    dynamics, curricula, features = planted(runs=5)
    simulator = GradientResponse(**SETTINGS)
    with pytest.raises(UserError, match="no gradient kernels"):
        simulator.fit(dynamics, curricula, replace(features, kernels=None))
    simulator.fit(dynamics, curricula, features)
    with pytest.raises(UserError, match="fitted on runs of 30 steps, cannot simulate 12"):
        simulator.simulate(Curricula(curricula.examples[:, :12]), dynamics.values[:, :1])


def test_a_group_from_files_to_simulations(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    settings = {"kind": "gradient_response", **{key: list(value) for key, value in SETTINGS.items()}}
    fit = chosen_runs(spec, "fit", "validate") | {"method": "mine", "settings": settings}
    fit_simulator(fit, tmp_path / "s.safetensors")
    simulator, provenance = load_simulator(tmp_path / "s.safetensors")
    data = load_group(fit)
    assert provenance["validation_mse"] == pytest.approx(validation_mse(simulator, data.dynamics, data.curricula))
    others = chosen_runs(spec, "held_out", "unseen") | {"simulators": {"mine": str(tmp_path / "s.safetensors")}}
    simulate_runs(others | {"replays": []}, tmp_path / "simulations.parquet")
    one = load_group(fit | {"test_tasks": ["a_task"]})
    assert one.features.kernels is not None and data.features.kernels is not None
    adamw = data.features.kernels.values["adamw"]
    np.testing.assert_array_equal(one.features.kernels.values["adamw"], adamw[..., 3:])


def test_kernels_of_another_plan_or_that_are_not_finite_are_named(tmp_path: Path) -> None:
    spec = write_group(tmp_path)
    path, tokens = tmp_path / "kernels.safetensors", np.ones(12, int)

    def read(kernel: np.ndarray) -> None:
        kernels = {name: kernel.astype(np.float32) for name in ("sgd", "adamw")}
        write_kernel_file(path, KernelFile(np.array([0]), tokens, kernels), {"test_tasks": spec["test_tasks"]})
        load_group(spec | {"kernels": str(path)})

    with pytest.raises(UserError, match="does not hold values of the 12 training and 5 test"):
        read(np.zeros((1, 12, 4)))
    with pytest.raises(UserError, match="kernel adamw is not finite"):
        read(np.full((1, 12, 5), np.inf))
    with pytest.raises(UserError, match="missing"):
        load_group(spec | {"kernels": str(tmp_path / "no.safetensors")})


# ------------------------------------------------------------------------------------------------------- intervals


def errors_without_each_run(
    simulator: GradientResponse, dynamics: Dynamics, curricula: Curricula, features: Features
) -> tuple[Array, Array]:
    """Return errors in each fitting run, [runs, steps, tests], and how wide intervals of all runs are, [all, steps].

    Each fit is made again here, from the other runs alone and with the same strengths. How much of it is believed is
    told by the replicas of all runs. Where a run's examples are farther from the others' than is usual among fitting
    runs, errors count as less, and intervals are wider.
    """
    count, steps, tests = dynamics.values[:, 1:].shape
    fitting = np.flatnonzero(~dynamics.validate)

    def apart(run: int, others: np.ndarray) -> Array:
        shares = shares_by_definition(curricula, features, others & ~dynamics.validate)[run]
        return np.array([((curricula.rates[run, : t + 1] @ shares[: t + 1]) ** 2).sum() for t in range(steps)])

    usual = np.mean([apart(run, np.arange(count) != run) for run in fitting], axis=0)
    wider = np.sqrt([0.75 + 0.25 * apart(run, np.ones(count, bool)) / usual for run in range(count)])
    errors = []
    for run in fitting:
        others = np.arange(count) != run
        alone = curricula.of(~others)
        predicted = np.empty((steps, tests))
        for task, strength in enumerate(simulator.chosen):
            again = GradientResponse(**SETTINGS | {"strengths": (strength,)})
            again.fit(Dynamics(dynamics.values[others], dynamics.validate[others]), curricula.of(others), features)
            own = features.test_task == task
            replicas, again.replicas = simulator.replicas[task], again.replicas[:, :0]
            rows = by_definition(curricula, features, ~dynamics.validate)[run][:, own].reshape(-1, 12)
            square = ((rows @ again.weights[task]) ** 2).sum()
            share = 1 - 1 / len(fitting)
            variance = share * ((rows @ (replicas - replicas.mean(axis=0)).T) ** 2).sum()
            curve = again.known.curve[1:, own]
            moved = again.simulate(alone, dynamics.values[run, None, :1])[0, 1:, own].T - curve
            predicted[:, own] = curve + square / (square + variance) * moved
        relative = np.sqrt(0.75 + 0.25 * apart(run, others) / usual)[:, None]
        errors.append((dynamics.values[run, 1:] - predicted) / relative)
    return np.array(errors), wider


def product_of_steps_and_tests(errors: Array) -> Array:
    """Return [steps, tests] of errors, [runs, steps, tests]."""
    squares = errors**2
    return np.sqrt(np.outer(squares.mean((0, 2)), squares.mean((0, 1))) / squares.mean())


def test_intervals_come_from_the_errors_of_fits_that_lack_the_run() -> None:
    dynamics, curricula, features = planted(runs=7, steps=9, batch=3, train=10, tests=5)
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, curricula, features)
    errors, wider = errors_without_each_run(simulator, dynamics, curricula, features)
    widths = simulator.half_widths(curricula)
    assert widths is not None and widths.shape == (3, 7, 10, 5)
    for task in (0, 1):
        tests = features.test_task == task
        spread = product_of_steps_and_tests(errors[:, :, tests])
        for level, width in zip(LEVELS, widths, strict=True):
            quantile = np.quantile(np.abs(errors[:, :, tests]) / spread, level)
            np.testing.assert_allclose(width[:, 1:, tests], wider[..., None] * quantile * spread, rtol=1e-4)
    assert not widths[:, :, 0].any()


def test_intervals_of_other_tests_come_from_curves_without_the_test_as_well() -> None:
    dynamics, curricula, features = planted(runs=7, steps=9, batch=3, train=10, tests=8)
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, curricula, features)
    errors, wider = errors_without_each_run(simulator, dynamics, curricula, features)
    curve = dynamics.values[~dynamics.validate].mean(axis=0)
    misses = np.empty((9, 8))
    for test in range(8):
        others = np.flatnonzero(np.arange(8) != test)
        strength = simulator.known.chosen[features.test_task[test]]
        again = PredictedCurve(**SETTINGS | {"strengths": (strength,)})
        again.fit(replace(dynamics, values=dynamics.values[..., others]), curricula, features.of_tests(others))
        predicted = again.transfer(features.of_tests(np.array([test])), curve[0, [test]]).curve
        misses[:, test] = curve[1:, test] - predicted[1:, 0]
    other = simulator.transfer(features, dynamics.values[0, 0])
    widths = other.half_widths(curricula)
    assert widths is not None
    for task in (0, 1):
        tests = features.test_task == task
        squares = (product_of_steps_and_tests(errors[:, :, tests]) ** 2).mean(1), (misses[:, tests] ** 2).mean(1)
        sizes = np.abs(errors[:, :, tests] + misses[:, tests]) / np.sqrt(sum(squares))[:, None]
        for level, width in zip(LEVELS, widths, strict=True):
            expected = np.quantile(sizes, level) * np.sqrt(wider**2 * squares[0] + squares[1])
            for test in np.flatnonzero(tests):
                np.testing.assert_allclose(width[:, 1:, test], expected, rtol=1e-4)


def test_intervals_of_fresh_runs_hold_as_much_as_they_say() -> None:
    (dynamics, features), fitted, measured, fresh = split_of(planted(runs=60, tests=30), held=30)
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, fitted, features)
    widths = simulator.half_widths(fresh)
    assert widths is not None
    errors = np.abs(simulator.simulate(fresh, measured[:, :1]) - measured)[:, 1:]
    held = [(errors <= width[:, 1:]).mean() for width in widths]
    np.testing.assert_allclose(held, LEVELS, atol=0.05)


def test_intervals_of_other_examples_hold_as_much_as_they_say() -> None:
    """Half of the examples are in no fitting run; each has an effect of its own, beside noise of every run."""
    dynamics, _, features = planted(runs=60, tests=200, train=400)
    generator = np.random.default_rng(5)
    steps, batch = dynamics.values.shape[1] - 1, 4
    drawn = np.stack([generator.permutation(140)[: steps * batch].reshape(steps, batch) for _ in range(60)])
    drawn[30:] += 140
    curricula = Curricula(drawn)
    shares = shares_by_definition(curricula, features, np.arange(60) < 25)
    moved = np.cumsum(curricula.rates[..., None] * shares, axis=1) @ generator.normal(size=(400, 200))
    own = np.mean(np.cumsum(curricula.rates[..., None] * shares, axis=1)[:25] ** 2, axis=0).sum(axis=1)
    moved += np.sqrt(3 * own)[:, None] * generator.normal(size=moved.shape)
    values = dynamics.values[0] + np.concatenate([np.zeros((60, 1, 200)), moved], axis=1)
    simulator = GradientResponse(**SETTINGS | {"strengths": (100.0,)})
    seen = Dynamics(values[:30], np.arange(30) >= 25)
    simulator.fit(seen, curricula.of(np.arange(30)), features)
    fresh = curricula.of(np.arange(30, 60))
    widths = simulator.half_widths(fresh)
    assert widths is not None
    errors = np.abs(simulator.simulate(fresh, values[30:, :1]) - values[30:])[:, 1:]
    held = [(errors <= width[:, 1:]).mean() for width in widths]
    np.testing.assert_allclose(held, LEVELS, atol=0.05)


def test_of_two_fitting_runs_each_is_as_far_from_the_other_as_they_are_apart() -> None:
    dynamics, curricula, features = planted(runs=4, tests=4)
    simulator = GradientResponse(**SETTINGS | {"strengths": (1e-6,)})
    simulator.fit(dynamics, curricula, features)
    apart = np.abs(dynamics.values[0, 1:] - dynamics.values[1, 1:])
    widths = simulator.half_widths(curricula)
    assert widths is not None
    for task in (0, 1):
        found = apart[:, features.test_task == task]
        spread = np.sqrt(np.outer((found**2).mean(1), (found**2).mean(0)) / (found**2).mean())
        # Of either run alone, its examples are twice as far from the other's as from the mean of both.
        expected = np.quantile(found / spread, 0.5) * spread * np.sqrt(0.75 + 0.25 / 4)
        np.testing.assert_allclose(widths[0, 0, 1:, features.test_task == task].T, expected, rtol=1e-6)


def test_one_fitting_run_gives_no_intervals() -> None:
    dynamics, curricula, features = planted(runs=3)
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, curricula, features)
    assert simulator.half_widths(curricula) is None


def test_curricula_like_the_fitted_ones_are_near_and_others_far() -> None:
    (dynamics, features), fitted, _, fresh = split_of(planted(runs=24))
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(dynamics, fitted, features)
    near = simulator.distances(fresh)
    alone = replace(fresh, examples=np.repeat(fresh.examples[:, :1, :1], 30, axis=1).repeat(4, axis=2))
    fast = replace(fresh, rates=5 * fresh.rates)
    assert near is not None and (near > 0).all() and (near < 1.5).all()
    far, faster = simulator.distances(alone), simulator.distances(fast)
    assert far is not None and far.min() > 1.5
    np.testing.assert_allclose(faster, 5 * near, rtol=1e-6)


def test_a_fitting_run_is_as_far_as_a_fit_without_it_says() -> None:
    """The unit is the distance of the farthest of them, by a metric that is made of the others."""
    dynamics, curricula, features = planted(runs=6, tests=3)
    features = replace(features, test_task=np.zeros(3, int))
    strength = (0.01,)
    distances = []
    for run in np.flatnonzero(~dynamics.validate):
        others = np.arange(6) != run
        again = GradientResponse(**SETTINGS | {"strengths": strength})
        again.fit(Dynamics(dynamics.values[others], dynamics.validate[others]), curricula.of(others), features)
        distance = again.distances(curricula.of(~others))
        assert distance is not None
        distances.append(distance[0] * again.reach[0])
    simulator = GradientResponse(**SETTINGS | {"strengths": strength})
    simulator.fit(dynamics, curricula, features)
    assert simulator.reach[0] == pytest.approx(max(distances), rel=1e-4)


def test_chooses_curricula_that_tell_most() -> None:
    """The first choice has the largest determinant of all candidates, by the definition of responses; so the second."""
    dynamics, curricula, features = planted(runs=14, steps=9, batch=3, train=10, tests=5)
    fitted, fitted_curricula, _, candidates = split(dynamics, curricula, held=6)
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(fitted, fitted_curricula, features)
    everything = by_definition(
        Curricula(
            np.concatenate([fitted_curricula.examples, candidates.examples]),
            np.concatenate([fitted_curricula.rates, candidates.rates]),
        ),
        features,
        np.append(~fitted.validate, np.zeros(6, bool)),
    )
    own, others = everything[: len(fitted.validate)][~fitted.validate], everything[len(fitted.validate) :]

    def log_determinant(chosen: list[int]) -> float:
        total = 0.0
        for task, strength in enumerate(simulator.chosen):
            tests = features.test_task == task
            x = own[:, :, tests].reshape(-1, own.shape[-1])
            scale = np.sqrt((x**2).mean(axis=0))
            y = np.concatenate([others[i][:, tests].reshape(-1, x.shape[1]) for i in chosen]) / scale
            gram = (x / scale).T @ (x / scale) + len(x) * strength * np.eye(x.shape[1]) + y.T @ y
            total += np.linalg.slogdet(gram)[1]
        return total

    first = int(np.argmax([log_determinant([i]) for i in range(6)]))
    second = max((i for i in range(6) if i != first), key=lambda i: log_determinant([first, i]))
    assert simulator.choose(candidates, 2).tolist() == [first, second]
    assert sorted(simulator.choose(candidates, 9).tolist()) == list(range(6))


def test_other_tests_have_their_kernels_and_the_known_weights() -> None:
    dynamics, curricula, features = planted(runs=10, tests=12)
    seen, hidden = np.arange(0, 12, 2), np.arange(1, 12, 2)
    simulator = GradientResponse(**SETTINGS)
    simulator.fit(replace(dynamics, values=dynamics.values[..., seen]), curricula, features.of_tests(seen))
    first = dynamics.values[:, :1, hidden]
    other = simulator.transfer(features.of_tests(hidden), first[0, 0])
    responses = by_definition(curricula, features, ~dynamics.validate)[:, :, hidden]
    for r in range(10):
        for task in (0, 1):
            of_task = responses[r][:, features.test_task[hidden] == task]
            rows = of_task.reshape(-1, of_task.shape[-1])
            predicted = (rows @ simulator.weights[task]) ** 2
            apart = rows @ (simulator.replicas[task] - simulator.replicas[task].mean(axis=0)).T
            of_task *= predicted.sum() / (predicted.sum() + 7 / 8 * (apart**2).sum())
            responses[r][:, features.test_task[hidden] == task] = of_task
    moved = np.einsum("rtzk,zk->rtz", responses, simulator.weights[features.test_task[hidden]])
    np.testing.assert_allclose(other.simulate(curricula, first)[:, 1:], other.known.curve[1:] + moved, rtol=1e-6)
