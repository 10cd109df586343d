from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from gptfluence.attribution.directional import loss_changes
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.models import add_adapters
from gptfluence.dynamics.packing import Stream, mean_losses, pack_by_length, pack_examples, read, token_losses
from gpts import tiny

VOCABULARY = 48
CPU = torch.device("cpu")
KINDS = ("neox", "llama", "gpt2", "mistral")
LORA = {"rank": 2, "alpha": 8, "dropout": 0.3, "targets": ["query_key_value"]}


def examples(count: int = 9, seed: int = 1) -> list[Encoded]:
    """Of 5 to 60 tokens, so that they stand in several buckets."""
    random = np.random.default_rng(seed)
    lengths, targets = random.integers(5, 61, count), random.integers(1, 5, count)
    return [
        Encoded(tuple(random.integers(1, VOCABULARY, length).tolist()), int(target), False)
        for length, target in zip(lengths, targets, strict=True)
    ]


def directions(model: torch.nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name: torch.randn(p.shape, generator=generator) for name, p in trained.items()}


def explicit(model: torch.nn.Module, tests: list[Encoded], direction: dict[str, torch.Tensor]) -> tuple[list, list]:
    """Losses and products with their gradients, one example at a time."""
    losses, products = [], []
    parameters = dict(model.named_parameters())
    for test in tests:
        stream = Stream.of([pack_examples([test])], CPU)
        loss = mean_losses(functools.partial(read, model), stream)[0]
        gradients = torch.autograd.grad(loss, [parameters[name] for name in direction])
        pairs = zip(gradients, direction.values(), strict=True)
        losses.append(loss.item())
        products.append(sum((gradient.double() * change.double()).sum().item() for gradient, change in pairs))
    return losses, products


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [10_000, 70])
def test_derivatives_are_products_with_the_gradients(kind: str, tokens: int) -> None:
    model, tests = tiny(kind, vocabulary=VOCABULARY), examples()
    direction = directions(model)
    packs = pack_by_length(tests, Budget(tokens, tokens))
    assert (len(packs) == 1) == (tokens == 10_000)
    losses, derivatives = loss_changes(model, packs, direction)
    expected_losses, products = explicit(model, tests, direction)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(derivatives, products, rtol=1e-4, atol=1e-4 * np.abs(products).mean())


@pytest.mark.parametrize("kind", ["neox", "gpt2"])  # the others' norms are fp32 whatever the weights are
def test_a_small_step_changes_losses_as_the_derivative_says(kind: str) -> None:
    """At a learning rate of 1e-6 losses change in their seventh digit, so they are measured with sixteen."""
    model, rate = tiny(kind, vocabulary=VOCABULARY).double(), 1e-6
    packs = pack_by_length(examples(), Budget(200, 200))
    batch = Stream.of([pack_examples(examples(4, seed=2))], CPU)

    def measured() -> np.ndarray:
        losses = np.empty(9)
        for pack in packs:
            stream = Stream.of([pack], CPU)
            with torch.no_grad():
                each = torch.nn.functional.cross_entropy(read(model, stream), stream.labels, reduction="none")
            losses[pack.rows] = [part.mean().item() for part in each.split(stream.kept.tolist())]
        return losses

    token_losses(functools.partial(read, model), batch).mean().backward()
    step = {name: parameter.grad * -rate for name, parameter in model.named_parameters()}
    _, derivatives = loss_changes(model, packs, step)
    before = measured()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += step[name]
    np.testing.assert_allclose(derivatives, measured() - before, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("chosen", ["self_attn.v_proj", "self_attn.k_proj", "lm_head", "model.norm", "embed_tokens"])
def test_only_what_the_direction_names_changes(chosen: str) -> None:
    model, tests = tiny("llama", vocabulary=VOCABULARY), examples()
    direction = {name: change for name, change in directions(model).items() if chosen in name}
    assert direction
    _, derivatives = loss_changes(model, pack_by_length(tests, Budget(100, 100)), direction)
    _, products = explicit(model, tests, direction)
    np.testing.assert_allclose(derivatives, products, rtol=1e-4, atol=1e-4 * np.abs(products).mean())


def test_where_nothing_changes_the_derivative_is_zero() -> None:
    model, packs = tiny("neox", vocabulary=VOCABULARY), pack_by_length(examples(), Budget(100, 100))
    still = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    losses, derivatives = loss_changes(model, packs, still)
    assert (losses > 0).all() and not derivatives.any()


def test_derivatives_are_linear_in_the_direction() -> None:
    model, packs = tiny("gpt2", vocabulary=VOCABULARY), pack_by_length(examples(), Budget(100, 100))
    first, second = directions(model, 1), directions(model, 2)
    both = {name: 3 * first[name] - second[name] for name in first}
    (_, a), (_, b), (_, c) = (loss_changes(model, packs, direction) for direction in (first, second, both))
    torch.testing.assert_close(c, 3 * a - b, rtol=1e-3, atol=1e-3 * c.abs().mean().item())


def test_adapters_and_dropout() -> None:
    """Adapters alone are trained; that a model is being trained, with dropout, changes neither it nor what is found."""
    model = add_adapters(tiny("neox", vocabulary=VOCABULARY), LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # begins as zeros, where the other half has no gradient
                parameter += torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter)
    tests, direction = examples(), directions(model)
    assert len(direction) == 4
    packs = pack_by_length(tests, Budget(100, 100))
    model.eval()
    _, products = explicit(model, tests, direction)
    model.train()
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    _, derivatives = loss_changes(model, packs, direction)
    np.testing.assert_allclose(derivatives, products, rtol=1e-4, atol=1e-4 * np.abs(products).mean())
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))
