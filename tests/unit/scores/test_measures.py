"""Measures against scipy and plain loops; the bootstrap against resampling whole runs one by one."""

import math

import numpy as np
import pytest
from gptfluence.scores import measures
from scipy import stats

RUNS, STEPS, TESTS = 5, 7, 6
NAMES = ("all_steps_mse", "all_steps_mae", "final_step_spearman", "skill", "across_run_correlation")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(3)
    measured = rng.normal(2, 1, (RUNS, STEPS, TESTS))
    predicted = measured + rng.normal(0, 0.7, measured.shape)
    mean_curve = np.repeat(rng.normal(2, 1, (1, STEPS, TESTS)), RUNS, axis=0)
    return predicted, measured, mean_curve


def evaluate(name, predicted, measured, mean_curve, counts):
    extra = (mean_curve,) if name == "skill" else ()
    return getattr(measures, name)(predicted, measured, *extra, counts)


def naive(name, predicted, measured, mean_curve):
    """Compute a measure as its definition reads."""
    runs, steps, tests = measured.shape
    if name in ("all_steps_mse", "all_steps_mae"):
        power = 2 if name == "all_steps_mse" else 1
        errors = []
        for r in range(runs):
            for n in range(tests):
                errors.append(sum(abs(predicted[r, t, n] - measured[r, t, n]) ** power for t in range(steps)) / steps)
        return np.mean(errors)
    if name == "final_step_spearman":
        return np.mean([stats.spearmanr(predicted[r, -1], measured[r, -1]).statistic for r in range(runs)])
    if name == "skill":
        return 1 - np.mean((predicted - measured) ** 2) / np.mean((mean_curve - measured) ** 2)
    if (measured == measured[0]).all():
        return np.nan
    p = [predicted[r] - sum(predicted) / runs for r in range(runs)]
    m = [measured[r] - sum(measured) / runs for r in range(runs)]
    return np.sum(np.multiply(p, m)) / math.sqrt(np.sum(np.square(p)) * np.sum(np.square(m)))


@pytest.mark.parametrize("name", NAMES)
def test_value_equals_its_definition(name, arrays):
    counts = measures.resample_counts(RUNS, 3, 1)
    assert evaluate(name, *arrays, counts).value == pytest.approx(naive(name, *arrays), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_bootstrap_equals_resampling_whole_runs(name, arrays):
    counts = measures.resample_counts(RUNS, 60, 7)
    drawn = np.random.default_rng(7).integers(0, RUNS, (60, RUNS))
    expected = np.array([naive(name, *(array[runs] for array in arrays)) for runs in drawn])
    score = evaluate(name, *arrays, counts)
    np.testing.assert_allclose(score.samples, expected, rtol=1e-9)
    low, high = np.percentile(expected[np.isfinite(expected)], [5, 95])
    assert score.interval(0.9) == (pytest.approx(low), pytest.approx(high))


def test_bootstrap_of_two_runs_leaves_out_resamples_without_a_difference(arrays):
    pair = [array[:2] for array in arrays]
    counts = measures.resample_counts(2, 40, 2)
    score = measures.across_run_correlation(pair[0], pair[1], counts)
    alone = counts.max(axis=1) == 2
    assert alone.any()
    assert np.isnan(score.samples[alone]).all()
    assert np.isfinite(score.samples[~alone]).all()


def test_spreads(arrays):
    predicted, measured, _ = arrays
    counts = measures.resample_counts(RUNS, 3, 1)
    errors = ((predicted - measured) ** 2).mean(axis=1)
    score = measures.all_steps_mse(predicted, measured, counts)
    assert score.std_over_trajectories == pytest.approx(np.std(errors))
    assert score.std_over_runs == pytest.approx(np.std([np.mean(errors[r]) for r in range(RUNS)]))
    ranks = [stats.spearmanr(predicted[r, -1], measured[r, -1]).statistic for r in range(RUNS)]
    assert measures.final_step_spearman(predicted, measured, counts).std_over_runs == pytest.approx(np.std(ranks))


def test_spearman_shares_ranks_among_ties():
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 3, (4, 1, 30)).astype(float)
    measured = rng.integers(0, 4, (4, 1, 30)).astype(float)
    score = measures.final_step_spearman(predicted, measured, measures.resample_counts(4, 3, 1))
    assert score.value == pytest.approx(naive("final_step_spearman", predicted, measured, None), rel=1e-12)


def test_spearman_leaves_out_constant_runs(arrays):
    predicted, measured, _ = arrays
    predicted = predicted.copy()
    predicted[1, -1] = 4.0
    counts = measures.resample_counts(RUNS, 50, 1)
    score = measures.final_step_spearman(predicted, measured, counts)
    kept = [0, 2, 3, 4]
    assert score.n_runs == 4
    assert score.value == pytest.approx(naive("final_step_spearman", predicted[kept], measured[kept], None))
    predicted[:, -1] = 4.0
    score = measures.final_step_spearman(predicted, measured, counts)
    assert (score.value, score.std_over_runs, score.interval(0.95)) == (None, None, (None, None))


def test_across_run_correlation_by_hand():
    # One step, one test: deviations of the measured runs are -1, 0, 1, of the predicted ones -1, 1, 0 (twice that).
    measured = np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    predicted = np.array([10.0, 14.0, 12.0]).reshape(3, 1, 1)
    counts = np.array([[2.0, 0.0, 1.0]])  # runs 1, 1, 3: both deviate by -1/3, -1/3, 2/3 of their difference
    score = measures.across_run_correlation(predicted, measured, counts)
    assert score.value == pytest.approx(0.5)
    assert score.samples == pytest.approx([1.0])


def test_across_run_correlation_without_predicted_difference_is_zero(arrays):
    _, measured, mean_curve = arrays
    score = measures.across_run_correlation(mean_curve, measured, measures.resample_counts(RUNS, 20, 1))
    assert score.value == 0
    assert score.interval(0.95) == (0, 0)
    rounded = np.repeat((1 + np.float32(mean_curve[:1])), RUNS, axis=0)
    rounded[0] = np.nextafter(rounded[0], np.float32(9))  # differs in the last bit only
    score = measures.across_run_correlation(rounded, measured, measures.resample_counts(RUNS, 20, 1))
    assert score.value == 0


def test_across_run_correlation_needs_two_runs_that_differ(arrays):
    predicted, measured, mean_curve = arrays
    one = measures.across_run_correlation(predicted[:1], measured[:1], measures.resample_counts(1, 5, 1))
    assert one.value is None
    same = measures.across_run_correlation(predicted, mean_curve, measures.resample_counts(RUNS, 5, 1))
    assert same.value is None


def test_skill_of_the_mean_curve_is_zero_and_undefined_without_error(arrays):
    _, measured, mean_curve = arrays
    counts = measures.resample_counts(RUNS, 20, 1)
    score = measures.skill(mean_curve, measured, mean_curve, counts)
    assert (score.value, score.interval(0.95)) == (0, (0, 0))
    assert measures.skill(mean_curve, measured, measured, counts).value is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_give_no_score(name, bad, arrays):
    predicted, measured, mean_curve = arrays
    predicted = predicted.copy()
    predicted[2, -1, 3] = bad
    score = evaluate(name, predicted, measured, mean_curve, measures.resample_counts(RUNS, 5, 1))
    assert (score.value, score.interval(0.95)) == (None, (None, None))


def test_an_explosion_is_a_large_number(arrays):
    predicted, measured, mean_curve = arrays
    predicted = predicted.copy()
    predicted[0, -1, 0] = np.finfo(np.float32).max
    for name in NAMES:
        assert math.isfinite(evaluate(name, predicted, measured, mean_curve, np.ones((1, RUNS))).value)


def test_one_run_has_no_interval(arrays):
    predicted, measured, _ = (array[:1] for array in arrays)
    score = measures.all_steps_mse(predicted, measured, measures.resample_counts(1, 5, 1))
    assert score.value is not None
    assert score.interval(0.95) == (None, None)


def test_arrays_must_agree(arrays):
    predicted, measured, _ = arrays
    with pytest.raises(ValueError, match="expected two"):
        measures.all_steps_mse(predicted[:, 1:], measured, np.ones((1, RUNS)))


def test_average_needs_every_task(arrays):
    predicted, measured, _ = arrays
    counts = measures.resample_counts(RUNS, 9, 1)
    a = measures.all_steps_mse(predicted, measured, counts)
    b = measures.all_steps_mae(predicted, measured, counts)
    mean = measures.average([a, b], RUNS)
    assert mean.value == pytest.approx((a.value + b.value) / 2)
    np.testing.assert_allclose(mean.samples, (a.samples + b.samples) / 2)
    assert measures.average([a, None], RUNS).value is None


def test_skill_of_each_run_gives_the_spread_over_runs(arrays):
    score = measures.skill(*arrays, measures.resample_counts(RUNS, 3, 1))
    by_run = [naive("skill", *(array[[r]] for array in arrays)) for r in range(RUNS)]
    assert score.std_over_runs == pytest.approx(np.std(by_run))


# ------------------------------------------------------------------------------------------ noise of what is sampled


@pytest.fixture
def noisy():
    """Expected values, measured twice, their noise 2 and their spread over runs 0.8; a mean curve of 6 fitting runs."""
    rng = np.random.default_rng(5)
    runs, steps, tests = 12, 40, 50
    base = rng.normal(0, 3, (steps, tests))
    expected, fitted = (base + rng.normal(0, 0.8, (n, steps, tests)) for n in (runs, 6))
    # Far from normal, as is what a text scores: now and then a hit.
    measured, again = (expected + 2 * rng.choice([-0.5, 2.0], expected.shape, p=[0.8, 0.2]) for _ in range(2))
    curve = (fitted + rng.normal(0, 2, fitted.shape)).mean(axis=0)
    return expected, measured, again, np.broadcast_to(curve, measured.shape)


def test_sampling_noise_and_ceilings_are_the_scores_of_who_knows_all_else(noisy):
    expected, measured, again, curve = noisy
    counts = measures.resample_counts(len(measured), 200, 1)
    noise = measures.sampling_noise(measured, again, counts)
    assert noise.value == pytest.approx(np.mean([(a - b) ** 2 / 2 for a, b in zip(measured, again, strict=True)]))
    assert noise.value == pytest.approx(4, rel=0.02) and noise.n_runs == 12
    low, high = noise.interval(0.95)
    assert low < 4 < high < low * 1.1

    ceiling = measures.skill_ceiling(measured, again, curve, counts)
    known = measures.skill(expected, measured, curve, counts)
    assert ceiling.value == pytest.approx(known.value, abs=0.02)
    assert ceiling.interval(0.95)[0] < known.value < ceiling.interval(0.95)[1]

    correlation = measures.correlation_ceiling(measured, again, counts)
    known = measures.across_run_correlation(expected, measured, counts)
    assert correlation.value == pytest.approx(known.value, abs=0.02)
    assert correlation.value == pytest.approx(0.8 / math.hypot(0.8, 2), abs=0.02)


def test_without_influence_what_is_explainable_is_the_mean_curves_error(noisy):
    curve = noisy[3]
    rng = np.random.default_rng(0)
    once, twice = (curve + rng.normal(0, 2, curve.shape) for _ in range(2))
    of_six = curve + rng.normal(0, 2, (1, *curve.shape[1:])) / math.sqrt(6)
    counts = measures.resample_counts(len(once), 200, 1)
    assert measures.skill_ceiling(once, twice, of_six, counts).value == pytest.approx(1 / 7, abs=0.02)
    assert measures.correlation_ceiling(once, twice, counts).value < 0.15


def test_noise_of_some_of_the_runs_is_resampled_with_them(noisy):
    _, measured, again, curve = noisy
    counts = measures.resample_counts(len(measured), 60, 7)
    drawn = np.random.default_rng(7).integers(0, 12, (60, 12))
    places = [0, 1, 2]
    ceiling = measures.skill_ceiling(measured[places], again[places], curve[places], counts[:, places])
    assert ceiling.n_runs == 3
    for n, runs in enumerate(drawn):
        repeated = runs[np.isin(runs, places)]
        if not len(repeated):
            assert np.isnan(ceiling.samples[n])
            continue
        variance = np.mean((measured[repeated] - again[repeated]) ** 2) / 2
        error = np.mean((curve[repeated] - measured[repeated]) ** 2)
        assert ceiling.samples[n] == pytest.approx(1 - variance / error)


def test_explained_share_is_of_what_the_ceiling_leaves(noisy):
    expected, measured, again, curve = noisy
    counts = measures.resample_counts(len(measured), 200, 1)
    ceiling = measures.skill_ceiling(measured, again, curve, counts)
    half = measures.skill((expected + curve) / 2, measured, curve, counts)
    share = measures.explained_share(half, ceiling, 0.95)
    assert share.value == pytest.approx(half.value / ceiling.value)
    assert share.value == pytest.approx(0.75, abs=0.05)  # half the way leaves a quarter of the squared distance
    assert share.samples == pytest.approx(half.samples / ceiling.samples)
    low, high = share.interval(0.95)
    assert low < share.value < high


def test_there_is_no_share_of_a_ceiling_that_may_be_zero(noisy):
    expected, measured, again, curve = noisy
    counts = measures.resample_counts(len(measured), 200, 1)
    skill = measures.skill(expected, measured, curve, counts)
    for level in (0.0, -0.2):
        ceiling = measures.Score(0.1, level + np.linspace(-0.1, 0.5, 200), 12)
        assert measures.explained_share(skill, ceiling, 0.95).value is None
    alone = measures.skill_ceiling(measured[:1], again[:1], curve[:1], np.ones((200, 1)))
    assert alone.value > 0 and measures.explained_share(skill, alone, 0.95).value is None
    unknown = measures.skill(np.full_like(expected, np.nan), measured, curve, counts)
    ceiling = measures.skill_ceiling(measured, again, curve, counts)
    assert measures.explained_share(unknown, ceiling, 0.95).value is None
    assert measures.skill_ceiling(measured, np.full_like(again, np.nan), curve, counts).value is None


def test_steps_that_a_run_lacks_are_not_judged_unless_it_is_the_last() -> None:
    measured = np.zeros((2, 4, 3))
    measured[1, 2, 0] = np.nan
    assert measures.whole_steps(measured).tolist() == [True, True, False, True]
    measured[0, 3, 1] = np.nan  # no gap between measurements: nothing is said of such runs
    assert measures.whole_steps(measured).all()
