from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gptfluence.errors import UserError
from gptfluence.simulators.base import Curricula
from gptfluence.whatif.ask import WhatIf, load
from gptfluence.whatif.curriculum import Curriculum
from whatif_parts import save_planted

Fitted = Callable[[str], WhatIf]


def test_a_simulation_is_the_simulators_under_names(fitted: Fitted) -> None:
    known = fitted("gradient_response")
    plan = known.random(3)
    assert (plan.steps, {len(batch) for batch in plan.batches}, known.batch) == (12, {4}, 4)
    found = known.simulate([plan, plan.with_rates([1e-4] * 12).named("slow")], ["b:2", "a"])
    assert found.tests == ("b:2", "a:0", "a:1", "a:2", "a:3")
    rows = np.array([[int(name[2:]) for name in batch] for batch in plan.batches])
    first = np.array(known.facts["fitted_on"]["first_values"])
    rates = np.array([known.rates, [1e-4] * 12])
    curricula = Curricula(np.stack([rows, rows]), rates)
    expected = known.simulator.simulate(curricula, np.stack([first, first]))[..., [6, 0, 1, 2, 3]]
    np.testing.assert_allclose(found.values, expected, rtol=1e-10)
    np.testing.assert_allclose(found.distances, known.simulator.distances(curricula), rtol=1e-10)
    assert np.abs(found.values[0] - found.values[1]).max() > 1e-3
    frame = found.frame().set_index(["curriculum", "task", "example", "step"])
    assert len(frame) == 2 * 5 * 13
    row = frame.loc["slow", "b", 2, 7]
    assert row["value"] == found.values[1, 7, 0]
    half = known.simulator.half_widths(curricula)[1, 1, 7, 6]
    assert (row["low_80"], row["high_80"]) == (row["value"] - half, row["value"] + half)
    assert not fitted("simfluence").simulate(plan).frame()["low_50"].notna().any()
    with pytest.raises(UserError, match="no intervals"):
        fitted("simfluence").simulate(plan).interval(0.8)


@pytest.mark.parametrize("method", ["simfluence", "gradient_response", "gptfluence_every_2", "gptfluence_each"])
def test_influence_is_what_a_run_without_the_example_lacks(fitted: Fitted, method: str) -> None:
    known = fitted(method)
    plan = known.random(1)
    found = known.influence(plan, of="curve")
    assert found.train == plan.examples
    whole = known.simulate(plan).values[0]
    for name in plan.examples[::5]:
        without = known.simulate(plan.without(name)).values[0]
        np.testing.assert_allclose(found.curves[found.train.index(name)], whole - without, rtol=1e-7, atol=1e-10)
    np.testing.assert_array_equal(found.values, found.curves[:, -1])
    np.testing.assert_allclose(known.influence(plan, "b").values, found.values[:, 4:], rtol=1e-12)
    best, worst = found.proponents("b:0", 1)[0], found.opponents("b:0", 1)[0]
    assert (best[1], worst[1]) == (found.values[:, 4].min(), found.values[:, 4].max())
    assert found.train[found.values.mean(axis=1).argmin()] == found.proponents(None, 1)[0][0]
    frame = known.influence(plan, ["a:1"], examples=["a:3"]).frame()
    assert frame.to_dict("records") == [
        {"train": "a:3", "task": "a", "example": 1, "step": 12, "metric": "loss",
         "influence": pytest.approx(found.values[found.train.index("a:3"), 1])}
    ]  # fmt: skip


def test_influence_by_hand_of_factors_that_add_up(fitted: Fitted) -> None:
    """Without one of a batch of four its mean is that of the other three."""
    known = fitted("simfluence_additive")
    factor = known.simulator.factors["B"]
    plan = known.random(2)
    found = known.influence(plan)
    for name, effect in zip(found.train, found.values, strict=True):
        expected = 0.0
        for batch in plan.batches:
            rows, i = [int(n[2:]) for n in batch], int(name[2:])
            if i in rows:
                expected = expected + factor[rows].mean(axis=0) - factor[[r for r in rows if r != i]].mean(axis=0)
        np.testing.assert_allclose(effect, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["simfluence_additive", "gradient_response"])
def test_interactions_are_what_pairs_do_beyond_their_parts(fitted: Fitted, method: str) -> None:
    known = fitted(method)
    plan = known.random(1)
    names = plan.examples[:4]
    found = known.interactions(plan, names)
    last = {gone: known.simulate(plan.without(*gone) if gone else plan).final[0]
            for size in range(3) for gone in itertools.combinations(names, size)}  # fmt: skip
    for i, j in itertools.combinations(range(4), 2):
        expected = last[()] - last[names[i],] - last[names[j],] + last[names[i], names[j]]
        np.testing.assert_allclose(found.values[i, j], expected, rtol=1e-6, atol=1e-11)
        np.testing.assert_array_equal(found.values[i, j], found.values[j, i])
        together = any({names[i], names[j]} <= set(batch) for batch in plan.batches)
        if method == "simfluence_additive" and not together:
            np.testing.assert_allclose(found.values[i, j], 0, atol=1e-12)
    assert not found.values[range(4), range(4)].any()
    assert list(found.frame().columns) == ["first", "second", "task", "example", "metric", "interaction"]


def test_variations_are_simulations(fitted: Fitted) -> None:
    known = fitted("gradient_response")
    plan = known.random(1)
    one, two = plan.examples[:2]
    others = [plan.swap(one, two), plan.move(one, 1, 12), plan.repeat(two, 3, 3), plan.replace(one, "a:0")]
    found = known.variations(plan, others)
    for values, other in zip(found, others, strict=True):
        np.testing.assert_allclose(values, known.simulate(other).values[0], rtol=1e-8)
    with pytest.raises(UserError, match="other steps or learning rates"):
        known.variations(plan, [plan.with_rates([0.1] * 12)])


def test_compare_is_a_difference(fitted: Fitted) -> None:
    known = fitted("gptfluence")
    plan = known.random(1)
    found = known.compare(plan, plan.without(plan.examples[0]), ["a:2"])
    np.testing.assert_allclose(found.values, found.second.values[0] - found.first.values[0])
    assert isinstance(found.frame(), pd.DataFrame)
    assert found.frame()["difference"].abs().max() > 0


@pytest.mark.parametrize("method", ["gradient_response", "simfluence"])
def test_select_beats_random_choices_and_keeps_to_its_form(fitted: Fitted, method: str) -> None:
    known = fitted(method)
    chosen = known.select(8, ["b"], seed=1)
    assert len(chosen.examples) == 8
    assert (chosen.steps, {len(batch) for batch in chosen.batches}) == (12, {4})
    at_random = known.simulate([known.random(seed) for seed in range(10)], ["b"]).final.mean(axis=1)
    assert known.simulate(chosen, ["b"]).final.mean() < at_random.min()
    some = known.trained[4:12]
    order = known.select(8, ["b"], some)
    assert sorted(order.examples) == sorted(some)
    with pytest.raises(UserError, match=r"a budget of 9 .* these do: 4, 8, 12, 16, 24"):
        known.select(9)


def test_what_cannot_be_answered_is_said(fitted: Fitted, tmp_path: Path) -> None:
    known = fitted("gradient_response")
    plan = known.random(1)
    with pytest.raises(UserError, match=r"knows no training example 'a:24'; the nearest are a:.*it knows a:0 to a:23"):
        known.simulate(plan.replace(plan.examples[0], "a:24"))
    with pytest.raises(UserError, match="knows no test example 'c:1'"):
        known.simulate(plan, ["c:1"])
    with pytest.raises(UserError, match="fitted on runs of 12 steps, cannot simulate 11"):
        known.simulate(Curriculum.of(plan.batches[1:]))
    for method in ("gradient_response", "gradient_response_schedules"):
        with pytest.raises(UserError, match="gradients of new texts need the model"):
            fitted(method).with_texts({"mine:0": ("a", "b")})
    with pytest.raises(UserError, match="knows examples by their runs alone"):
        fitted("simfluence").with_texts({"mine:0": ("a", "b")})
    with pytest.raises(UserError, match="simfluence knows nothing of learning rates"):
        fitted("simfluence").simulate(plan.with_rates([0.1] * 12))
    with pytest.raises(UserError, match="has no influence there"):
        known.influence(plan.without(plan.examples[0]), examples=[plan.examples[0]])
    with pytest.raises(UserError, match="influence is on final or curve, not on 'x'"):
        known.influence(plan, of="x")
    far = known.simulate(plan.with_rates([30 * rate for rate in known.rates]))
    assert far.distances[0] > 2
    assert "times as far from the fitted ones" in far.notes[0]
    slow = known.simulate(
        [plan.with_rates(known.rates).named("same"), plan.with_rates([rate / 2 for rate in known.rates]).named("slow")]
    )
    assert [note.split(";")[0] for note in slow.notes] == ["slow: has learning rates of its own"]
    pooled = fitted("gradient_response_schedules")
    same, slow = (pooled.simulate(plan.with_rates([rate * f for rate in pooled.rates])) for f in (1, 0.5))
    assert not slow.notes  # its curve moves with the rates
    np.testing.assert_allclose(same.values, pooled.simulate(plan).values)
    assert np.abs(slow.final - same.final).max() > 0.01 and slow.half_widths is not None
    short = fitted("simfluence").simulate(Curriculum.of([["a:0", "a:1"]] * 3, name="short"))
    assert [note.split(";")[0] for note in short.notes] == ["short: has 3 steps", "short: has batches of 2"]
    path = tmp_path / "old.safetensors"
    save_planted("mean_curve", path)
    from gptfluence.simulators.files import load_simulator, save_simulator

    simulator, facts = load_simulator(path)
    facts.pop("fitted_on")
    save_simulator(simulator, path, facts)
    with pytest.raises(UserError, match="does not say what it was fitted on; fit it again"):
        load(path)


def test_new_texts_are_encoded_as_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with the features of a known example does what that example does."""
    from gptfluence.simulators import encode
    from synthetic import planted

    _, _, features = planted(runs=8, steps=12)
    path = tmp_path / "s.safetensors"
    save_planted("gptfluence", path, encoder={"source": "package"})
    known = load(path)
    monkeypatch.setattr(
        encode, "encode_texts", lambda texts, encoder: features.train[[int(t.split()[1]) for t in texts]]
    )
    more = known.with_texts({"mine:0": ("example", "5"), "mine:1": ("example", "7")})
    plan = known.random(1)
    old = plan.examples[0]
    expected = known.simulate(plan.replace(old, "a:7")).values
    np.testing.assert_allclose(more.simulate(plan.replace(old, "mine:1")).values, expected, rtol=1e-8)
    with pytest.raises(UserError, match="'a:3' is an example of this simulator already"):
        known.with_texts({"a:3": ("x", "y")})
