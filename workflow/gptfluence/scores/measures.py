"""How well simulated trajectories agree with measured ones, and how sure that is.

All arrays are [runs, steps, tests] and hold the predicted steps only: what a simulator was given is not judged.
Uncertainty is over runs, which are the independent repetitions: whole runs are drawn with replacement. Each measure
is computed for all resamples at once from a few statistics of each run, so a thousand resamples cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Relative to the spread (of values, or over all runs), below this a variance is float32 rounding, not a difference.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Score:
    """One measure of one method.

    Attributes:
        value: None where the measure is not defined (a zero denominator, values that are not finite).
        samples: [resamples], the measure of each resample of the runs; NaN where it is not defined.
        n_runs: the runs that the value is computed from.
        std_over_trajectories: population standard deviation over runs x tests (the paper's bracket), or None.
        std_over_runs: population standard deviation over the runs' own values, or None.
    """

    value: float | None
    samples: Array
    n_runs: int
    std_over_trajectories: float | None = None
    std_over_runs: float | None = None

    def interval(self, confidence: float) -> tuple[float | None, float | None]:
        """Return the percentile bootstrap interval; (None, None) with fewer than two runs."""
        samples = self.samples[np.isfinite(self.samples)]
        if self.value is None or self.n_runs < 2 or not samples.size:
            return None, None
        low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def resample_counts(runs: int, samples: int, seed: int | Sequence[int]) -> Array:
    """Draw runs with replacement; return [samples, runs], how often each run was drawn."""
    draws = np.random.default_rng(seed).integers(0, runs, (samples, runs))
    cells = draws + runs * np.arange(samples)[:, None]
    return np.bincount(cells.ravel(), minlength=samples * runs).reshape(samples, runs).astype(float)


def whole_steps(measured: Array) -> NDArray[np.bool_]:
    """Return which steps can be judged, [steps]: those that were measured of all runs and tests.

    Gaps lie between measured steps. Where the last step is not whole, the values are wrong and no gap: all steps count,
    so that nothing is said of them.
    """
    whole = np.isfinite(measured).all(axis=(0, 2))
    return whole if whole[-1] else np.ones_like(whole)


def all_steps_mse(predicted: Array, measured: Array, counts: Array) -> Score:
    """Return the mean squared error of a trajectory, averaged over runs and tests (unit: the metric's, squared)."""
    return _mean_error(np.square(_difference(predicted, measured)).mean(axis=1), counts)


def all_steps_mae(predicted: Array, measured: Array, counts: Array) -> Score:
    """Return the mean absolute error of a trajectory, averaged over runs and tests (unit: the metric's)."""
    return _mean_error(np.abs(_difference(predicted, measured)).mean(axis=1), counts)


def final_step_spearman(predicted: Array, measured: Array, counts: Array) -> Score:
    """Return the rank correlation across tests at the last step, averaged over runs.

    Ties get average ranks. A run where either side is constant has no rank correlation and is left out.
    """
    _difference(predicted, measured)
    pairs = zip(predicted[:, -1], measured[:, -1], strict=True)
    by_run = np.array([_spearman(*pair) if np.isfinite(pair).all() else np.nan for pair in pairs])
    defined = np.isfinite(by_run)
    n_runs = int(defined.sum())
    # A run that is not finite is a failure of the method (or of the GPT), not a tie: nothing is said without it.
    if not n_runs or not np.isfinite(predicted[:, -1]).all() or not np.isfinite(measured[:, -1]).all():
        return _undefined(counts)
    kept = by_run[defined]
    samples = _ratio(counts[:, defined] @ kept, counts[:, defined].sum(axis=1))
    return Score(float(kept.mean()), samples, n_runs, std_over_runs=float(kept.std()))


def coverage(predicted: Array, measured: Array, half_width: Array, counts: Array) -> Score:
    """Return which share of the measured values lies within half the width of an interval from the predicted one."""
    difference = _difference(predicted, measured)
    if not np.isfinite(difference).all() or not np.isfinite(half_width).all():
        return _undefined(counts)
    by_run = (np.abs(difference) <= half_width).mean(axis=(1, 2))
    return Score(float(by_run.mean()), counts @ by_run / len(by_run), len(by_run), std_over_runs=float(by_run.std()))


def skill(predicted: Array, measured: Array, mean_curve: Array, counts: Array) -> Score:
    """Return 1 - MSE / MSE of the mean curve, on the same steps and trajectories.

    The mean curve is the mean trajectory of a test example over the fitting runs: it ignores the curriculum. A
    skill of 0 or less means that no influence of the training examples was learned.
    """
    own = np.square(_difference(predicted, measured)).mean(axis=(1, 2))
    reference = np.square(_difference(mean_curve, measured)).mean(axis=(1, 2))
    if not np.isfinite(own).all() or not np.isfinite(reference).all() or not reference.any():
        return _undefined(counts)
    samples = 1 - _ratio(counts @ own, counts @ reference)
    by_run = 1 - _ratio(own, reference)
    over_runs = float(by_run.std()) if np.isfinite(by_run).all() else None
    return Score(float(1 - own.mean() / reference.mean()), samples, len(own), std_over_runs=over_runs)


def across_run_correlation(predicted: Array, measured: Array, counts: Array) -> Score:
    """Return the correlation of predicted and measured deviations from their means over these runs.

    A deviation is taken at each step and test, from the mean over the runs there, so only differences between runs
    count; products are pooled over runs, steps and tests. A method that predicts no difference between runs gets 0.
    It needs two runs, and measured values that differ.
    """
    _difference(predicted, measured)
    runs = len(measured)
    if runs < 2 or not np.isfinite(predicted).all() or not np.isfinite(measured).all():
        return _undefined(counts)
    p, m = (np.asarray(x, float).reshape(runs, -1) for x in (predicted, measured))
    p, m = _deviations(p), _deviations(m)
    if not m.any():
        return _undefined(counts)

    # A resample that draws run r c_r times (sum n) has deviations from its own mean, whose pooled product is
    # sum_r c_r <p_r, m_r> - (1/n) sum_rs c_r c_s <p_r, m_s>: a quadratic form in c, from run-by-run inner products.
    weights = np.vstack([np.ones(runs), counts])

    def products(a: Array, b: Array) -> Array:
        inner = a @ b.T
        pooled = weights @ np.diag(inner) - np.einsum("sr,rq,sq->s", weights, inner, weights) / runs
        return np.where(np.abs(pooled) > _ROUNDING * np.abs(np.trace(inner)), pooled, 0.0)

    variance_p, variance_m = products(p, p), products(m, m)
    values = _ratio(products(p, m), np.sqrt(variance_p) * np.sqrt(variance_m))
    values[(variance_p == 0) & (variance_m > 0)] = 0.0
    values = np.clip(values, -1, 1)
    return Score(float(values[0]), values[1:], runs)


def sampling_noise(measured: Array, repeated: Array, counts: Array) -> Score:
    """Return the variance of a metric that its sampling alone makes: the MSE of a simulator that knows all else.

    Two measurements of the same weights differ by twice that variance on average, whatever their distribution.

    Args:
        measured, repeated: of the same runs, texts sampled independently.
        counts: [resamples, these runs].
    """
    return _mean_error(np.square(_difference(measured, repeated)).mean(axis=1) / 2, counts)


def skill_ceiling(measured: Array, repeated: Array, mean_curve: Array, counts: Array) -> Score:
    """Return the highest skill that any simulator could have: 1 - `sampling_noise` / MSE of the mean curve.

    No simulator knows what is sampled, so its MSE is that noise and more. What is left counts as explainable: what the
    curricula do, and the error of the mean curve, which is the mean of few runs: without any influence the ceiling is
    1 / (1 + fitting runs). Both are taken from the same runs, as a run that varies more is noisier, too.

    Args:
        measured, repeated, counts: see `sampling_noise`.
        mean_curve: see `skill`.
    """
    noise = sampling_noise(measured, repeated, counts)
    reference = all_steps_mse(mean_curve, measured, counts)
    if noise.value is None or not reference.value:
        return _undefined(counts)
    return Score(1 - noise.value / reference.value, 1 - _ratio(noise.samples, reference.samples), noise.n_runs)


def correlation_ceiling(measured: Array, repeated: Array, counts: Array) -> Score:
    """Return the highest across-run correlation that any simulator could have.

    It is the root of that of two measurements of the same weights (Spearman's correction for attenuation, 1904).
    """
    found = across_run_correlation(repeated, measured, counts)
    if found.value is None:
        return found
    return replace(found, value=max(found.value, 0.0) ** 0.5, samples=np.sqrt(np.maximum(found.samples, 0)))


def explained_share(skill: Score, ceiling: Score, confidence: float) -> Score:
    """Return skill / ceiling, the explained share of the variance that can be explained.

    Not defined unless the ceiling's interval lies above 0: of nothing there are no shares.

    Args:
        ceiling: see `skill_ceiling`, on the same steps and tests, by the same resamples.
    """
    low, _ = ceiling.interval(confidence)
    if skill.value is None or ceiling.value is None or low is None or low <= 0:
        return replace(ceiling, value=None)
    positive = np.where(ceiling.samples > 0, ceiling.samples, np.nan)
    return Score(skill.value / ceiling.value, skill.samples / positive, ceiling.n_runs)


def average(scores: Sequence[Score | None], n_runs: int) -> Score:
    """Return the unweighted mean of a measure over tasks; not defined unless it is for every task."""
    present = [score for score in scores if score is not None]
    samples = np.mean([score.samples for score in present], axis=0)
    if min(score.n_runs for score in present) < 2:
        samples = np.full_like(samples, np.nan)  # one of the tasks has no interval
    values = [score.value for score in present if score.value is not None]
    complete = len(values) == len(scores)
    return Score(float(np.mean(values)) if complete else None, samples, n_runs)


def _difference(predicted: Array, measured: Array) -> Array:
    if predicted.shape != measured.shape or predicted.ndim != 3 or not predicted.size:
        raise ValueError(f"expected two [runs, steps, tests] arrays, got {predicted.shape} and {measured.shape}")
    with np.errstate(invalid="ignore"):
        return np.subtract(predicted, measured, dtype=float)


def _mean_error(errors: Array, counts: Array) -> Score:
    """Average the errors of trajectories, [runs, tests]."""
    if not np.isfinite(errors).all():
        return _undefined(counts)
    by_run = errors.mean(axis=1)
    samples = _ratio(counts @ by_run, counts.sum(axis=1))
    return Score(float(by_run.mean()), samples, len(by_run), float(errors.std()), float(by_run.std()))


def _deviations(x: Array) -> Array:
    """Subtract from [runs, values] the mean over runs; all zero where the runs differ by rounding only."""
    deviations = x - x.mean(axis=0)
    return deviations * (np.square(deviations).mean() > _ROUNDING * np.square(x).mean())


def _spearman(x: Array, y: Array) -> float:
    """Return Pearson's correlation of average ranks; NaN if either side is constant."""
    a, b = (ranks - ranks.mean() for ranks in (_average_ranks(x), _average_ranks(y)))
    norm = np.sqrt(a @ a) * np.sqrt(b @ b)
    return float(np.clip(a @ b / norm, -1, 1)) if norm > 0 else np.nan


def _average_ranks(x: Array) -> Array:
    """Return the ranks of [tests] values, 1 for the smallest; equal values share the mean of their ranks."""
    _, inverse, sizes = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Divide; NaN where the denominator is zero."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator != 0)


def _undefined(counts: Array) -> Score:
    return Score(None, np.full(len(counts), np.nan), counts.shape[1])
