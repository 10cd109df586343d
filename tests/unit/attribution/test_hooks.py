"""Gradients of single examples equal what autograd gives for each of them alone."""

from __future__ import annotations

import random

import gpts
import numpy as np
import pytest
import torch
from gptfluence.attribution.hooks import ExampleGradients, gradient_products, gradients_of
from gptfluence.attribution.projection import Projection
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.models import add_adapters
from gptfluence.dynamics.packing import Stream, mean_losses, pack_examples, read
from gptfluence.errors import UserError

VOCABULARY = 40
BUDGET = Budget(64, 64)
KINDS = ("neox", "llama", "gpt2")


def examples(count: int, seed: int = 1) -> list[Encoded]:
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        length, target = generator.randint(3, 20), generator.randint(1, 4)
        found.append(Encoded(tuple(generator.randrange(VOCABULARY) for _ in range(length + target)), target, False))
    return found


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 of the whole: losses are in fp32, whatever the model is in."""
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-5 * expected.norm() + 1e-9


def model_of(kind: str, **changes: object) -> torch.nn.Module:
    return gpts.tiny(kind, vocabulary=VOCABULARY, **changes).double()


def one_by_one(model: torch.nn.Module, all_examples: list[Encoded], names: list[str]) -> dict[str, torch.Tensor]:
    """Autograd of each example's loss by itself: [examples, *shape] of each parameter."""
    parameters = dict(model.named_parameters())
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for example in all_examples:
        stream = Stream.of([pack_examples([example])], torch.device("cpu"))
        output = read(model, stream)
        loss = torch.nn.functional.cross_entropy(output, stream.labels)
        grads = torch.autograd.grad(loss, [parameters[name] for name in names])
        for name, grad in zip(names, grads, strict=True):
            found[name].append(grad)
    return {name: torch.stack(grads) for name, grads in found.items()}


@pytest.mark.parametrize("parameters", ["linear", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_equals_autograd(kind: str, parameters: str) -> None:
    model, some = model_of(kind), examples(7)
    gradients = ExampleGradients(model, parameters)
    names = [block.name for block in gradients.blocks]
    if parameters == "all":
        assert set(names) == {name for name, _ in model.named_parameters()}
    else:
        assert {block.kind for block in gradients.blocks} == {"linear"}
        assert not any("head" in name or "embed" in name or "wte" in name for name in names)
    expected = one_by_one(model, some, names)
    captured = gradients.capture(pack_examples(some))
    for block in gradients.blocks:
        found = captured.block(block)
        assert found.shape == (7, *block.shape) and block.size == found[0].numel()
        assert_near(found, expected[block.name])


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_that_are_measured(kind: str) -> None:
    model, some = model_of(kind), examples(5)
    pack = pack_examples(some)
    losses = ExampleGradients(model).capture(pack).losses
    assert_near(losses, mean_losses(lambda s: read(model, s), Stream.of([pack], torch.device("cpu"))))


def test_a_shared_head_has_both_gradients() -> None:
    model, some = model_of("neox", tie_word_embeddings=True), examples(6)
    gradients = ExampleGradients(model)
    (shared,) = [block for block in gradients.blocks if block.kind == "embedding"]
    expected = one_by_one(model, some, [shared.name])[shared.name]
    assert_near(gradients.capture(pack_examples(some)).block(shared), expected)


def test_float32_is_as_near_as_autograd_is() -> None:
    model, some = model_of("neox").float(), examples(9)
    gradients = ExampleGradients(model)
    expected = one_by_one(model, some, [block.name for block in gradients.blocks])
    captured = gradients.capture(pack_examples(some))
    for block in gradients.blocks:
        error = (captured.block(block) - expected[block.name]).norm() / expected[block.name].norm()
        assert error < 1e-5, block.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [Budget(20, 20), Budget(4096, 4096)])
def test_products_equal_those_of_whole_gradients(kind: str, budget: Budget) -> None:
    """Both ways of forming them: of long packs gradients are formed, of short ones tokens are multiplied."""
    model, train, test = model_of(kind), examples(11, 1), examples(5, 2)
    gradients = ExampleGradients(model)
    names = [block.name for block in gradients.blocks]
    a, b = (one_by_one(model, some, names) for some in (train, test))
    expected = sum(a[name].flatten(1) @ b[name].flatten(1).T for name in names)
    found = gradient_products(gradients, train, test, budget)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_products_of_a_shared_head() -> None:
    model, train, test = model_of("neox", tie_word_embeddings=True), examples(4, 1), examples(3, 2)
    gradients = ExampleGradients(model)
    for block in gradients.blocks:
        one, two = (gradients.capture(pack_examples(some)) for some in (train[:1], test[:1]))
        expected = one.block(block).flatten(1) @ two.block(block).flatten(1).T
        assert_near(one.products(two, [block]), expected)


def test_company_order_and_size_of_packs_do_not_matter() -> None:
    model, some = model_of("llama"), examples(12)
    gradients = ExampleGradients(model)
    alone = {i: gradients.capture(pack_examples([example])) for i, example in enumerate(some)}
    for order in (list(range(12)), list(reversed(range(12)))):
        for budget in (Budget(24, 24), Budget(400, 400)):
            seen = []
            for rows, captured in gradients_of(gradients, [some[i] for i in order], budget):
                for place, row in enumerate(rows):
                    seen.append(order[row])
                    for block in gradients.blocks:
                        assert_near(captured.block(block)[place], alone[order[row]].block(block)[0])
            assert sorted(seen) == list(range(12))


@pytest.mark.parametrize("kind", KINDS)
def test_direction_equals_the_product_with_whole_gradients(kind: str) -> None:
    model, some = model_of(kind), examples(6)
    gradients = ExampleGradients(model)
    captured = gradients.capture(pack_examples(some))
    torch.manual_seed(0)
    for block in gradients.blocks:
        direction = torch.randn(block.shape, dtype=torch.float64)
        expected = captured.block(block).flatten(1) @ direction.flatten()
        assert_near(captured.direction(block, direction), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_projection_of_factors_equals_projection_of_gradients(kind: str) -> None:
    model, some = model_of(kind).float(), examples(6)
    gradients = ExampleGradients(model)
    captured = gradients.capture(pack_examples(some))
    for block in gradients.blocks:
        projection = Projection(block.shape, 4, 0, block.name)
        found = captured.projected(block, projection)
        assert found.shape == (6, projection.width)
        assert_near(found, projection.apply(captured.block(block)))


def test_adapters_alone_are_trained() -> None:
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["query_key_value"]}
    model = add_adapters(gpts.tiny("neox", vocabulary=VOCABULARY), lora).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    gradients = ExampleGradients(model)
    assert {block.name for block in gradients.blocks} == {n for n, p in model.named_parameters() if p.requires_grad}
    some = examples(4)
    expected = one_by_one(model, some, [block.name for block in gradients.blocks])
    captured = gradients.capture(pack_examples(some))
    for block in gradients.blocks:
        assert_near(captured.block(block), expected[block.name])


def test_the_model_is_left_as_it_was() -> None:
    model = model_of("neox").train()
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    ExampleGradients(model).capture(pack_examples(examples(3)))
    assert model.training and not frozen.requires_grad
    assert sum(not p.requires_grad for p in model.parameters()) == 1
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_what_is_not_finite_is_named() -> None:
    model, some = model_of("neox"), examples(4)
    unlucky = 39
    some = [Encoded(tuple(min(t, 38) for t in e.tokens), e.target, False) for e in some]
    some[2] = Encoded((*some[2].tokens[:1], unlucky, *some[2].tokens[2:]), some[2].target, False)
    with torch.no_grad():
        model.get_input_embeddings().weight[unlucky] = torch.nan
    with pytest.raises(UserError, match="example 2: its loss is not finite"):
        ExampleGradients(model).capture(pack_examples(some))


def test_a_model_without_parameters_is_refused() -> None:
    model = model_of("neox").requires_grad_(False)
    with pytest.raises(UserError, match="no parameters of the kind 'all'"):
        ExampleGradients(model)


def test_a_layer_that_is_not_known_is_named() -> None:
    model = model_of("neox")
    model.odd = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(UserError, match=r"odd\.weight: gradients of a Conv2d are not known"):
        ExampleGradients(model)
    assert ExampleGradients(model, "linear").blocks
