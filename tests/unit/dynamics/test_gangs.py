from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import gpts
import numpy as np
import pytest
import torch
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.gangs import Gang, can_join, gang_width
from gptfluence.dynamics.models import add_adapters
from gptfluence.dynamics.packing import NAME, Pack, Reader, Stream, mean_losses, pack_examples, read, token_losses
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

CPU = torch.device("cpu")
VOCABULARY = 101


def tiny(kind: str, seed: int = 1, **changes: Any) -> PreTrainedModel:
    """No size is a multiple of how many numbers the processor takes at once: the last few are others in company."""
    own = {
        "neox": {"intermediate_size": 50, "tie_word_embeddings": True},
        "llama": {"intermediate_size": 50},
        "gpt2": {"n_inner": 50, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    }[kind]
    return gpts.tiny(kind, seed, vocabulary=VOCABULARY, **{"hidden_size": 72} | own | changes)


def adapted(seed: int) -> torch.nn.Module:
    """Adapters that have learned something: as they begin, one of their matrices is zero."""
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "down_proj"]}
    model = add_adapters(tiny("llama", seed, intermediate_size=64), lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    return model.eval()


MAKERS = {kind: functools.partial(tiny, kind) for kind in ("neox", "llama", "gpt2")} | {"adapters": adapted}
MAKERS["heads of 10"] = functools.partial(tiny, "neox", hidden_size=40)
KINDS = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def some_pack(generator: np.random.Generator, sequences: int) -> Pack:
    lengths = generator.integers(2, 70, size=sequences)
    return pack_examples(
        [
            Encoded(tuple(generator.integers(VOCABULARY, size=n).tolist()), int(generator.integers(1, n)), False)
            for n in lengths
        ]
    )


def alone(model: torch.nn.Module) -> Reader:
    return Gang([model]).reader([0])


def trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def identical(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@KINDS
def test_training_together_is_training_alone_bit_for_bit(make: Callable[[int], torch.nn.Module]) -> None:
    """Losses, gradients and weights over some updates, each run with packs of its own."""
    generator = np.random.default_rng(1)
    together, apart = [make(seed) for seed in range(3)], [make(seed) for seed in range(3)]
    optimizers = [[torch.optim.AdamW(trained(model), lr=0.01, fused=True) for model in m] for m in (together, apart)]
    before = [copy.deepcopy(trained(model)) for model in together]
    gang = Gang(together)
    gang.train(True)
    for _ in range(4):
        packs = [some_pack(generator, int(generator.integers(1, 6))) for _ in range(3)]
        stream = Stream.of(packs, CPU)
        losses = token_losses(gang.reader(range(3)), stream).split(stream.logits_of)
        for optimizer in itertools.chain(*optimizers):
            optimizer.zero_grad(set_to_none=True)
        torch.stack([part.mean() for part in losses]).sum().backward()
        for i, pack in enumerate(packs):
            own = token_losses(alone(apart[i]), Stream.of([pack], CPU))
            own.mean().backward()
            assert torch.equal(losses[i], own)
            assert identical([p.grad for p in trained(together[i])], [p.grad for p in trained(apart[i])])
            for optimizer in (optimizers[0][i], optimizers[1][i]):
                optimizer.step()
            assert identical(trained(together[i]), trained(apart[i]))
    for model, weights in zip(together, before, strict=True):
        assert not any(torch.equal(new, old) for new, old in zip(trained(model), weights, strict=True))


@KINDS
def test_one_as_a_gang_is_the_model_as_it_is(make: Callable[[int], torch.nn.Module]) -> None:
    """But for the order of sums."""
    model, stream = make(1), Stream.of([some_pack(np.random.default_rng(6), 5)], CPU)
    found = []
    for reader in (Gang([model]).reader([0]), Gang([model], joined=False).reader([0]), functools.partial(read, model)):
        losses = token_losses(reader, stream)
        found.append([losses.detach(), *torch.autograd.grad(losses.mean(), trained(model))])
    for joined, as_it_is, plain in zip(*found, strict=True):
        assert torch.equal(as_it_is, plain)
        torch.testing.assert_close(joined, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


@KINDS
@torch.no_grad()
def test_any_members_in_any_order(make: Callable[[int], torch.nn.Module]) -> None:
    generator = np.random.default_rng(2)
    models = [make(seed) for seed in range(3)]
    gang = Gang(models)
    packs = [some_pack(generator, 3) for _ in models]
    own = [token_losses(alone(model), Stream.of([pack], CPU)) for model, pack in zip(models, packs, strict=True)]
    for count in (1, 2, 3):
        for members in itertools.permutations(range(3), count):
            found = token_losses(gang.reader(members), Stream.of([packs[i] for i in members], CPU))
            assert torch.equal(found, torch.cat([own[i] for i in members])), members
    # One pack for all, as the test examples are read.
    stream = Stream.of([packs[0]] * 3, CPU)
    means = [mean_losses(alone(model), Stream.of([packs[0]], CPU)) for model in models]
    assert torch.equal(mean_losses(gang.reader(range(3)), stream), torch.cat(means))
    assert not torch.allclose(means[0], means[1])


@KINDS
def test_run_that_has_nothing_to_read(make: Callable[[int], torch.nn.Module]) -> None:
    generator = np.random.default_rng(3)
    models = [make(seed) for seed in range(3)]
    first, last = some_pack(generator, 2), some_pack(generator, 4)
    stream = Stream.of([first, Pack.of([], []), last], CPU)
    losses = token_losses(Gang(models).reader(range(3)), stream)
    expected = [token_losses(alone(models[i]), Stream.of([pack], CPU)) for i, pack in ((0, first), (2, last))]
    assert torch.equal(losses, torch.cat(expected))
    losses.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in models[1].parameters())
    assert any(p.grad is not None and p.grad.any() for p in models[2].parameters())


@KINDS
def test_only_the_members_have_parameters(make: Callable[[int], torch.nn.Module]) -> None:
    generator = np.random.default_rng(4)
    models = [make(seed) for seed in range(3)]
    places = [[parameter.data_ptr() for parameter in model.parameters()] for model in models]
    gang = Gang(models)
    assert not list(gang._skeleton.parameters())
    stream = Stream.of([some_pack(generator, 2) for _ in range(2)], CPU)
    token_losses(gang.reader([2, 0]), stream).sum().backward()
    for i, model in enumerate(models):
        assert all((parameter.grad is not None) == (i != 1) for parameter in trained(model))
        assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    assert [[parameter.data_ptr() for parameter in model.parameters()] for model in models] == places


def test_member_by_itself_is_prepared_for_what_it_does() -> None:
    """Several are never told: where that made a difference, they would not be computed together."""
    model = tiny("neox", hidden_dropout=0.5)
    gang, stream = Gang([model], joined=False), Stream.of([some_pack(np.random.default_rng(5), 2)], CPU)
    plain = read(model, stream)
    gang.train(True)
    assert not torch.allclose(gang.reader([0])(stream), plain)
    gang.train(False)
    assert torch.equal(gang.reader([0])(stream), plain)


# --------------------------------------------------------------------------------------------------------- width


def test_half_of_the_memory_is_for_weights_gradients_and_moments() -> None:
    model = tiny("llama")
    each = 16e-9 * model.num_parameters()  # GB
    for runs in (1, 2, 5, 40):
        assert gang_width(model, 2 * each * (runs + 0.01)) == runs
        assert gang_width(model, 2 * each * (runs - 0.01)) == max(1, runs - 1)
    assert gang_width(model, 0.0) == 1


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("neox", "attention_dropout"),
        ("neox", "hidden_dropout"),
        ("llama", "attention_dropout"),
        ("gpt2", "embd_pdrop"),
        ("gpt2", "attn_pdrop"),
        ("gpt2", "resid_pdrop"),
    ],
)
def test_run_that_draws_random_numbers_is_computed_by_itself(kind: str, setting: str) -> None:
    assert can_join(tiny(kind), None, CPU)
    assert not can_join(tiny(kind, **{setting: 0.1}), None, CPU)


def test_adapters_are_computed_by_themselves() -> None:
    assert not can_join(tiny("llama"), {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj"]}, CPU)


def test_class_whose_layers_take_other_things_is_computed_run_by_run() -> None:
    """A router sends each token to its own experts: no layer sees a run's tokens one behind the other."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        sliding_window=None,
    )
    assert not can_join(AutoModelForCausalLM.from_config(config, attn_implementation=NAME).eval(), None, CPU)


@pytest.mark.parametrize(
    ("kind", "setting"), [("neox", "classifier_dropout"), ("gpt2", "summary_first_dropout")], ids=["neox", "gpt2"]
)
def test_dropout_of_heads_that_are_not_there_counts_for_nothing(kind: str, setting: str) -> None:
    model = tiny(kind, **{setting: 0.1})
    assert model.config.to_dict()[setting] == 0.1
    assert can_join(model, None, CPU)
