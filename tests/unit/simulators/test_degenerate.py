"""Little, equal, constant or no data: every kind of method says something defined, or why it cannot."""

from dataclasses import replace

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.simulators.base import Array, Curricula, Dynamics, Features, Simulator
from gptfluence.simulators.registry import make_method
from synthetic import METHOD_SETTINGS, planted

pytestmark = pytest.mark.filterwarnings("error")

RIDGE = {"aggregation": "sum", "shrink_to": "zero", "strengths": (1e-300, 1e-3, 10.0)}
SETTINGS = METHOD_SETTINGS | {
    "gptfluence_published": {"kind": "gptfluence", "head": "bilinear", "order": 3, "start": "zeros", **RIDGE},
    "simfluence_published": {"kind": "simfluence", "variant": "linear", **RIDGE},
    "gptfluence_mlp_published": METHOD_SETTINGS["gptfluence_mlp"] | {"aggregation": "sum", "shrink_to": "zero"},
}
"""Those of every kind, and the published forms, which nothing holds back."""

CHOOSING = [name for name, settings in SETTINGS.items() if "strengths" in settings or "adam" in settings]
"""Methods whose hyper-parameters the validation runs choose."""

Group = tuple[Dynamics, Curricula, Features]


def small() -> Group:
    return planted(runs=7, steps=6, batch=3, train=12, tests=5)


def of_runs(group: Group, fit: int, validate: int) -> Group:
    """Return the first fitting runs, and the first validation runs."""
    dynamics, curricula, features = group
    kept = np.concatenate([np.flatnonzero(~dynamics.validate)[:fit], np.flatnonzero(dynamics.validate)[:validate]])
    return Dynamics(dynamics.values[kept], dynamics.validate[kept]), curricula.of(kept), features


def of_tests(group: Group, tests: list[int]) -> Group:
    dynamics, curricula, features = group
    return replace(dynamics, values=dynamics.values[:, :, tests]), curricula, features.of_tests(np.array(tests))


def with_values(group: Group, values: Array) -> Group:
    return replace(group[0], values=values), group[1], group[2]


def duplicate_train(group: Group) -> Group:
    """Every second training example is the one before again: with its features, scores and gradients."""
    features, source = group[2], np.arange(12) // 2 * 2
    assert features.attribution is not None and features.kernels is not None
    scores = {name: rows[source] for name, rows in features.attribution.scores.items()}
    kernels = {name: rows[:, source] for name, rows in features.kernels.values.items()}
    attribution, kernels = replace(features.attribution, scores=scores), replace(features.kernels, values=kernels)
    return group[0], group[1], replace(features, train=features.train[source], attribution=attribution, kernels=kernels)


def with_examples(group: Group, examples: np.ndarray) -> Group:
    return group[0], replace(group[1], examples=examples), group[2]


def zero_features(group: Group) -> Group:
    features = group[2]
    return group[0], group[1], replace(features, train=0 * features.train, test=0 * features.test)


def zero_gradients(group: Group) -> Group:
    features = group[2]
    assert features.attribution is not None and features.kernels is not None
    scores = {name: 0 * rows for name, rows in features.attribution.scores.items()}
    kernels = {name: 0 * rows for name, rows in features.kernels.values.items()}
    attribution, kernels = replace(features.attribution, scores=scores), replace(features.kernels, values=kernels)
    return group[0], group[1], replace(features, attribution=attribution, kernels=kernels)


def far_values(group: Group) -> Group:
    """A metric whose changes are as small as its float64s tell apart."""
    values = group[0].values
    return with_values(group, 1e6 + 1e-9 * values)


DEGENERATE = {
    "one fitting run": lambda group: of_runs(group, 1, 2),
    "one validation run": lambda group: of_runs(group, 5, 1),
    "one fitting run that validates too": lambda group: of_runs(group, 1, 1),
    "metric constant": lambda group: with_values(group, np.full_like(group[0].values, 2.5)),
    "metric zero": lambda group: with_values(group, np.zeros_like(group[0].values)),
    "metric hardly changes": far_values,
    "one test's metric constant": lambda group: with_values(group, np.where(np.arange(5) == 1, 2.5, group[0].values)),
    "training examples twice": duplicate_train,
    "tests twice": lambda group: of_tests(group, [0, 0, 1, 4, 4]),
    "one test": lambda group: of_tests(group, [0]),
    "training example in no run": lambda group: with_examples(group, group[1].examples % 11),
    "example twice in a batch": lambda group: with_examples(group, np.repeat(group[1].examples[..., :1], 3, axis=2)),
    "equal curricula": lambda group: with_examples(group, np.repeat(group[1].examples[:1], 7, axis=0)),
    "one training example": lambda group: with_examples(group, np.zeros_like(group[1].examples)),
    "features zero": zero_features,
    "kernels and scores zero": zero_gradients,
}


def fitted(name: str, group: Group) -> Simulator:
    simulator = make_method(name, SETTINGS[name])
    simulator.fit(*group)
    return simulator


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", SETTINGS)
def test_simulations_are_finite_and_near_what_was_measured(name: str, case: str) -> None:
    dynamics, curricula, features = DEGENERATE[case](small())
    if case == "features zero" and SETTINGS[name].get("kind") == "gptfluence":
        with pytest.raises(UserError, match="needs features of the examples; the fit was given none, or zeros"):
            fitted(name, (dynamics, curricula, features))
        return
    simulator = fitted(name, (dynamics, curricula, features))
    runs = replace(curricula, examples=11 - curricula.examples)  # 11 and others that no run may have
    simulated = simulator.simulate(runs, dynamics.values[:, : simulator.start])
    assert simulated.shape == dynamics.values.shape
    low, high = dynamics.values.min(), dynamics.values.max()
    reach = (high - low) or 1.0
    assert low - reach <= simulated.min() and simulated.max() <= high + reach
    if "adam" in SETTINGS[name] or name == "grad_dot":  # which are not exact, or not fitted
        return
    if case == "metric zero" or (case == "metric constant" and "published" not in name):
        np.testing.assert_array_equal(simulated, dynamics.values)
    if case == "tests twice":
        for first, second in ((0, 1), (3, 4)):
            np.testing.assert_allclose(simulated[:, :, first], simulated[:, :, second], rtol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_one_step(name: str) -> None:
    group = planted(runs=7, steps=1, batch=3, train=12, tests=5)
    if name == "gptfluence":
        with pytest.raises(UserError, match="order 2: the first 2 values are given, and runs of 1 steps have no other"):
            fitted(name, group)
        return
    if "interval" in SETTINGS[name]:
        with pytest.raises(UserError, match="an interval of 2 steps is too long for runs of 1"):
            fitted(name, group)
        return
    simulator = fitted(name, group)
    simulated = simulator.simulate(group[1], group[0].values[:, :1])
    assert simulated.shape == (7, 2, 5) and np.isfinite(simulated).all()
    assert simulator.start == 1 and np.array_equal(simulated[:, :1], group[0].values[:, :1])


@pytest.mark.parametrize("name", SETTINGS)
def test_without_validation_runs_nothing_can_be_chosen(name: str) -> None:
    group = of_runs(small(), 5, 0)
    if name in CHOOSING:
        with pytest.raises(UserError, match="needs runs to fit and runs to validate; there are 5 and 0"):
            fitted(name, group)
        return
    simulated = fitted(name, group).simulate(group[1], group[0].values[:, :1])
    assert np.isfinite(simulated).all()


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"persistence"}))
def test_without_fitting_runs_nothing_can_be_fitted(name: str) -> None:
    with pytest.raises(UserError, match="there are 0 and 2"):
        fitted(name, of_runs(small(), 0, 2))


@pytest.mark.parametrize("name", SETTINGS)
def test_an_example_that_no_fitting_run_has_is_simulated(name: str) -> None:
    """Where a method knows it by features or gradients it moves tests, else it moves none."""
    dynamics, curricula, features = with_examples(small(), small()[1].examples % 11)
    simulator = fitted(name, (dynamics, curricula, features))
    first = dynamics.values[:1, : simulator.start]
    simulated = simulator.simulate(Curricula(np.full((1, 6, 3), 11), curricula.rates[:1]), first)
    assert np.isfinite(simulated).all()
    if name.startswith("simfluence"):
        after = 0.0 if name == "simfluence_published" else first[0, 0]
        np.testing.assert_array_equal(simulated[0, 1:], np.broadcast_to(after, (6, 5)))
