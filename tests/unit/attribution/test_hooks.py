"""Gradients of single examples equal what autograd gives for each of them alone."""

from __future__ import annotations

import gpts
import numpy as np
import pytest
import torch
from encoded import random_examples
from gptfluence.attribution import hooks
from gptfluence.attribution.hooks import ExampleGradients, gradient_products, gradients_of
from gptfluence.attribution.projection import Projection
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.models import add_adapters
from gptfluence.dynamics.packing import NAME, Stream, mean_losses, pack_examples, read
from gptfluence.errors import UserError
from transformers import AutoModelForCausalLM, Gemma3TextConfig, Qwen3Config

VOCABULARY = 40
BUDGET = Budget(64, 64)
KINDS = ("neox", "llama", "gpt2")


def examples(count: int, seed: int = 1) -> list[Encoded]:
    return random_examples(count, seed, VOCABULARY)


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
    names = [block.name for block in gradients.blocks]
    a, b = (one_by_one(model, some, names) for some in (train, test))
    expected = sum(a[name].flatten(1) @ b[name].flatten(1).T for name in names)
    assert_near(torch.from_numpy(gradient_products(gradients, train, test, BUDGET)).double(), expected)


def test_products_with_nobody_are_an_empty_table() -> None:
    gradients = ExampleGradients(model_of("neox"))
    assert gradient_products(gradients, [], examples(2), BUDGET).shape == (0, 2)
    assert gradient_products(gradients, examples(2), [], BUDGET).shape == (2, 0)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("held", "overhead"), [(1, 0), (500, 1e9), (1 << 23, -1e9)])
def test_products_do_not_depend_on_how_they_are_formed(
    kind: str, held: int, overhead: float, changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row and token by token; gradients of all matrices formed; no matrix's gradient formed."""
    model, train, test = model_of(kind, **changes), examples(9, 1), examples(4, 2)
    gradients = ExampleGradients(model)
    a, b = (gradients.capture(pack_examples(some)) for some in (train, test))
    expected = sum(a.block(block).flatten(1) @ b.block(block).flatten(1).T for block in gradients.blocks)
    monkeypatch.setattr(hooks, "_HELD", held)
    monkeypatch.setattr(hooks, "_OVERHEAD", overhead)
    assert_near(torch.from_numpy(gradient_products(gradients, train, test, BUDGET)).double(), expected)


def test_a_shared_head_is_projected_from_both_factors() -> None:
    model, some = model_of("neox", tie_word_embeddings=True).float(), examples(6)
    gradients = ExampleGradients(model)
    (shared,) = [block for block in gradients.blocks if block.kind == "embedding"]
    captured, projection = gradients.capture(pack_examples(some)), Projection(shared.shape, 4, 0, shared.name)
    assert_near(captured.projected(shared, projection), projection.apply(captured.block(shared)))


def test_tokens_that_nothing_comes_back_to_are_left_out() -> None:
    """In the last layer behind its attention those whose logits are not asked for; nothing else is kept of them."""
    model, some = model_of("neox"), examples(6)
    captured = ExampleGradients(model).capture(pack_examples(some))
    kept, read_ = sum(example.target for example in some), sum(len(example.tokens) - 1 for example in some)
    assert len(captured._caught["gpt_neox.layers.1.mlp.dense_4h_to_h"].input) == kept < read_
    assert len(captured._caught["gpt_neox.layers.0.mlp.dense_4h_to_h"].input) == read_


def test_a_gradient_that_is_not_finite_is_named() -> None:
    """The losses are finite: huge weights are multiplied with zeros on the way forward, but not on the way back."""
    model, some = model_of("neox").float(), examples(4)
    mlp = model.gpt_neox.layers[0].mlp
    with torch.no_grad():
        mlp.dense_h_to_4h.bias.fill_(-1e6)
        mlp.dense_4h_to_h.weight.fill_(3e38)
        model.gpt_neox.final_layer_norm.weight.mul_(100)
    losses = mean_losses(lambda s: read(model, s), Stream.of([pack_examples(some)], torch.device("cpu")))
    assert torch.isfinite(losses).all()
    with pytest.raises(UserError, match=r"example 0: its gradient at gpt_neox\..* is not finite"):
        ExampleGradients(model).capture(pack_examples(some))


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
    gradients = ExampleGradients(model)
    with pytest.raises(UserError, match="example 2: its loss is not finite"):
        gradients.capture(pack_examples(some))
    with pytest.raises(UserError, match=r"^example 2: its loss is not finite"):
        gradient_products(gradients, some, some[:1], BUDGET)
    with pytest.raises(UserError, match=r"^test example 2: its loss is not finite"):
        gradient_products(gradients, some[:1], some, BUDGET)


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


@pytest.mark.parametrize(("config", "changes"), [(Qwen3Config, {}), (Gemma3TextConfig, {"sliding_window": 64})])
def test_norms_of_single_heads_are_refused_and_their_models_linear_layers_are_not(
    config: type, changes: dict[str, int]
) -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64, "pad_token_id": 0}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(**sizes | changes), attn_implementation=NAME).eval().double()
    some = examples(4)
    with pytest.raises(
        UserError, match=r"q_norm: does not give one vector a token.* attribution\.parameters to linear"
    ):
        ExampleGradients(model).capture(pack_examples(some))
    gradients = ExampleGradients(model, "linear")
    expected = one_by_one(model, some, [block.name for block in gradients.blocks])
    captured = gradients.capture(pack_examples(some))
    for block in gradients.blocks:
        assert_near(captured.block(block), expected[block.name])


def test_layers_that_are_used_twice_or_never_are_named() -> None:
    twice, never = model_of("neox"), model_of("neox")
    twice.gpt_neox.layers[1] = twice.gpt_neox.layers[0]
    never.spare = torch.nn.Linear(3, 3).double()
    with pytest.raises(UserError, match=r"layers\.0\.\S+: the model uses this layer more than once"):
        ExampleGradients(twice).capture(pack_examples(examples(3)))
    with pytest.raises(UserError, match="spare: the model does not use this layer"):
        ExampleGradients(never).capture(pack_examples(examples(3)))
    assert not any(module._forward_hooks for module in twice.modules())


@pytest.mark.parametrize(("train", "test"), [(0, 3), (3, 0)])
def test_products_of_nothing_are_none(train: int, test: int) -> None:
    gradients = ExampleGradients(model_of("neox"))
    assert gradient_products(gradients, examples(train), examples(test), BUDGET).shape == (train, test)
