"""LESS and TRAK against torch's AdamW and autograd, one example at a time, without projection."""

from __future__ import annotations

import copy

import gpts
import numpy as np
import pytest
import torch
from encoded import random_examples
from gptfluence.attribution.hooks import ExampleGradients
from gptfluence.attribution.kernels import Outputs, adam_moments, lengths, less, log_odds, trak
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import Stream, pack_examples, read
from gptfluence.dynamics.trainer import make_optimizer

VOCABULARY = 40
BUDGET = Budget(64, 64)
ADAM = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}
WHOLE = {"projection": 64, "seed": 1}  # no side of a parameter is longer, so nothing is projected


def examples(count: int, seed: int) -> list[Encoded]:
    return random_examples(count, seed, VOCABULARY, target=3)


TRAIN, TESTS = examples(9, 1), examples(4, 2)


def losses(model: torch.nn.Module, example: Encoded) -> torch.Tensor:
    """Of each target token."""
    stream = Stream.of([pack_examples([example])], torch.device("cpu"))
    return torch.nn.functional.cross_entropy(read(model, stream), stream.labels, reduction="none")


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model after some steps, and its optimiser."""
    model = gpts.tiny("neox", vocabulary=VOCABULARY, hidden_size=16, intermediate_size=24, num_attention_heads=2)
    optimizer, _ = make_optimizer(model, 1e-3, 100, ADAM | {"weight_decay": 0.0})
    for example in examples(steps, 3):
        optimizer.zero_grad()
        losses(model, example).mean().backward()
        optimizer.step()
    return model, optimizer


def flat(model: torch.nn.Module, loss: torch.Tensor) -> np.ndarray:
    return torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(model.parameters()))]).double().numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))


# ----------------------------------------------------------------------------------------------------------- less


@pytest.mark.parametrize("steps", [0, 5])
def test_less_compares_the_step_that_adamw_would_make(steps: int) -> None:
    """The step is made, by torch; at the start of a run the optimiser has no moments yet."""
    model, optimizer = trained(steps)
    updates = []
    for example in TRAIN:
        own = copy.deepcopy(model)
        theirs, _ = make_optimizer(own, 1e-3, 100, ADAM | {"weight_decay": 0.0})
        theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        before = torch.nn.utils.parameters_to_vector(own.parameters()).detach().clone()
        theirs.zero_grad()
        losses(own, example).mean().backward()
        theirs.step()
        updates.append((before - torch.nn.utils.parameters_to_vector(own.parameters()).detach()).double().numpy())
    of_tests = np.stack([flat(model, losses(model, example).mean()) for example in TESTS])
    gradients = ExampleGradients(model)
    found = less(gradients, TRAIN, TESTS, adam_moments(model, optimizer), WHOLE, ADAM, BUDGET)
    assert found.shape == (9, 4) and found.dtype == np.float32
    # Weights of fp32 hold a small step to about four digits.
    np.testing.assert_allclose(found, cosines(np.stack(updates), of_tests), atol=2e-3)


def test_less_is_near_when_projected() -> None:
    model, optimizer = trained(5)
    gradients, moments = ExampleGradients(model), adam_moments(model, optimizer)
    whole = less(gradients, TRAIN, TESTS, moments, WHOLE, ADAM, BUDGET)
    some = [less(gradients, TRAIN, TESTS, moments, {"projection": 8, "seed": s}, ADAM, BUDGET) for s in range(8)]
    assert np.corrcoef(np.mean(some, axis=0).ravel(), whole.ravel())[0, 1] > 0.9
    assert not np.allclose(some[0], some[1])


# ----------------------------------------------------------------------------------------------------------- trak


def test_features_are_gradients_of_the_log_odds() -> None:
    model, _ = trained(20)
    double = copy.deepcopy(model).double()
    found = log_odds(ExampleGradients(model), TRAIN, WHOLE, BUDGET)
    features, wrong = [], []
    for example in TRAIN:
        log_probability = -losses(double, example).double().sum()
        features.append(flat(double, log_probability - torch.log1p(-log_probability.exp())))
        wrong.append(1 - log_probability.exp().item())
    expected = np.stack(features)
    np.testing.assert_allclose(found.features, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found.wrong, wrong, rtol=1e-5)


def test_a_certain_target_has_finite_features() -> None:
    """p rounds to 1, and log(p / (1 - p)) would be infinite; nor may it drown all others."""
    model, _ = trained(0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.gpt_neox.final_layer_norm.weight.zero_()
        model.gpt_neox.final_layer_norm.bias.fill_(1.0)
        model.lm_head.weight[7] = 1.0  # predicted with 16 nats more than all others
    found = log_odds(
        ExampleGradients(model), [Encoded((1, 2, 7), 1, False), Encoded((1, 2, 8), 1, False)], WHOLE, BUDGET
    )
    assert found.wrong[0] < 1e-5 < 0.99 < found.wrong[1]
    assert np.isfinite(found.features).all()
    with torch.no_grad():
        model.lm_head.weight[7] = 1.2  # and in fp32 with no doubt at all
    found = log_odds(
        ExampleGradients(model), [Encoded((1, 2, 7), 1, False), Encoded((1, 2, 8), 1, False)], WHOLE, BUDGET
    )
    sizes = np.linalg.norm(found.features, axis=1)
    assert found.wrong[0] < 1e-6 and 0 < sizes[0] < 10 * sizes[1]


@pytest.mark.parametrize("width", [30, 5])
def test_trak_equals_its_formula(width: int) -> None:
    """With more numbers than examples, and with fewer."""
    generator = np.random.default_rng(1)
    train = Outputs(generator.normal(size=(12, width)), generator.uniform(size=12))
    tests = Outputs(generator.normal(size=(4, width)), generator.uniform(size=4))
    found, weights = trak(train, tests, 0.1)
    kernel = train.features.T @ train.features
    values = np.linalg.eigvalsh(kernel)
    kernel += 0.1 * values[values > 1e-9 * values[-1]].mean() * np.eye(width)
    np.testing.assert_allclose(found, train.features @ np.linalg.solve(kernel, tests.features.T), rtol=1e-9)
    np.testing.assert_array_equal(weights, train.wrong)


def test_trak_points_at_the_example_itself() -> None:
    """Its kernel undoes what examples have in common, so each is its own best."""
    model, _ = trained(5)
    own = log_odds(ExampleGradients(model), TRAIN, WHOLE, BUDGET)
    found, _ = trak(own, own, 0.01)
    assert (found.argmax(0) == np.arange(9)).all()


# -------------------------------------------------------------------------------------------------------- lengths


def test_lengths_are_those_of_whole_gradients() -> None:
    model, _ = trained(0)
    expected = [np.linalg.norm(flat(model, losses(model, example).mean())) for example in TRAIN]
    np.testing.assert_allclose(lengths(ExampleGradients(model), TRAIN, BUDGET), expected, rtol=1e-5)


def test_moments_are_the_optimisers() -> None:
    model, optimizer = trained(3)
    found = adam_moments(model, optimizer)
    assert list(found) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        assert found[name].step == 3
        torch.testing.assert_close(found[name].second, state["exp_avg_sq"])
    model, optimizer = trained(0)
    for own in adam_moments(model, optimizer).values():
        assert own.step == 0 and not own.first.any() and not own.second.any()


def test_frozen_parameters_have_no_moments() -> None:
    model, _ = trained(0)
    model.lm_head.weight.requires_grad_(False)
    optimizer, _ = make_optimizer(model, 1e-3, 100, ADAM | {"weight_decay": 0.0})
    assert "lm_head.weight" not in adam_moments(model, optimizer)


def test_batches_and_order_do_not_count() -> None:
    """Adam divides by second moments near zero, which multiplies roundings; with a large epsilon none is multiplied."""
    model, optimizer = trained(5)
    adam = ADAM | {"epsilon": 1e-3}
    gradients, moments = ExampleGradients(model), adam_moments(model, optimizer)
    order = np.random.default_rng(1).permutation(9)
    turned = [TRAIN[i] for i in order]
    settings = {"projection": 4, "seed": 1}
    one, other = Budget(20, 20), Budget(4096, 4096)
    found = less(gradients, TRAIN, TESTS, moments, settings, adam, one)
    again = less(gradients, turned, TESTS, moments, settings, adam, other)
    np.testing.assert_allclose(found[order], again, rtol=1e-4, atol=1e-6)
    found = log_odds(gradients, TRAIN, settings, one).features
    again = log_odds(gradients, turned, settings, other).features
    np.testing.assert_allclose(found[order], again, rtol=1e-3, atol=1e-5 * np.abs(found).max())
