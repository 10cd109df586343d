"""Training of adapters against the dense way: W + alpha / rank * B A stands in the place of W."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import gpts
import numpy as np
import pytest
import torch
from gptfluence.dynamics.checkpoints import Training
from gptfluence.dynamics.collect import Settings, update
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.gangs import Gang
from gptfluence.dynamics.generate import Sampling, Texts, generate
from gptfluence.dynamics.models import add_adapters
from gptfluence.dynamics.packing import Pack, Reader, Stream, pack_examples, read, token_losses
from gptfluence.dynamics.trainer import make_optimizer
from transformers import PreTrainedModel

CPU = torch.device("cpu")
VOCABULARY, END = 31, 0  # small: texts end in the middle often enough
SAMPLING = Sampling(temperature=0.8, top_p=0.95, end=END)
BUDGET = Budget.of(10_000, VOCABULARY)
SETTINGS = Settings(budget=BUDGET, text_tokens=10_000, sampling=SAMPLING, autocast=None)
tiny = functools.partial(gpts.tiny, vocabulary=VOCABULARY)
OPTIMIZER = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.001}

TARGETS = {"neox": ["query_key_value"], "llama": ["q_proj", "v_proj"]}
KINDS = pytest.mark.parametrize("kind", TARGETS)
JOINED = pytest.mark.parametrize("joined", [True, False], ids=["together", "each by itself"])


def lora_of(kind: str, **changes: Any) -> dict[str, Any]:
    return {"rank": 8, "alpha": 4, "dropout": 0.0, "targets": TARGETS[kind]} | changes


def learned(kind: str, lora: dict[str, Any], seed: int = 1) -> torch.nn.Module:
    """In fp64, with adapters that have learned something: as they begin, one of their matrices is zero."""
    model = add_adapters(tiny(kind, seed).double(), lora).double()
    for _, _, *factors in adapters(model):
        for factor in factors:
            torch.nn.init.normal_(factor, std=0.4)
    return model.eval()


def adapters(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The name of each adapted layer in the plain model, its own weight, A and B."""
    for name, part in model.named_modules():
        if hasattr(part, "lora_A"):
            (a,), (b,) = part.lora_A.values(), part.lora_B.values()
            yield name.removeprefix("base_model.model."), part.base_layer.weight, a.weight, b.weight


def merged(model: torch.nn.Module, lora: dict[str, Any]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {name: w + lora["alpha"] / lora["rank"] * b @ a for name, w, a, b in adapters(model)}


def dense(kind: str, model: torch.nn.Module, lora: dict[str, Any], seed: int = 1) -> PreTrainedModel:
    """A model without adapters, whose weights are the merged ones."""
    plain = tiny(kind, seed).double()
    weights = merged(model, lora)
    assert len(weights) == 2 * len(lora["targets"])
    with torch.no_grad():
        for name, weight in weights.items():
            plain.get_submodule(name).weight.copy_(weight)
    return plain


def some_pack(seed: int = 1, sequences: int = 5) -> Pack:
    generator = np.random.default_rng(seed)
    return pack_examples(
        [
            Encoded(tuple(generator.integers(VOCABULARY, size=n).tolist()), int(generator.integers(1, n)), False)
            for n in generator.integers(2, 40, size=sequences)
        ]
    )


def reader_of(model: torch.nn.Module) -> Reader:
    return functools.partial(read, model)


def losses_of(models: Sequence[torch.nn.Module], packs: Sequence[Pack], joined: bool) -> list[torch.Tensor]:
    """The losses of each model on its pack."""
    if joined:
        stream = Stream.of(packs, CPU)
        return list(token_losses(Gang(models).reader(range(len(models))), stream).split(stream.logits_of))
    readers = [Gang([model], joined=False).reader([0]) for model in models]
    return [token_losses(reader, Stream.of([pack], CPU)) for reader, pack in zip(readers, packs, strict=True)]


def training_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Training:
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return Training(model, optimizer, schedule, losses=np.empty((0, 0)), texts=np.empty((2, 0, 0)))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To rounding in fp32, which logits and some norms are computed in, next to the largest number."""
    scale = expected.abs().max().item()
    assert scale > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


# ---------------------------------------------------------------------------------------------- losses and gradients


@KINDS
@JOINED
@torch.no_grad()
def test_losses_are_those_of_the_merged_weights(kind: str, joined: bool) -> None:
    lora, seeds = lora_of(kind), (1, 2)
    models = [learned(kind, lora, seed) for seed in seeds]
    packs = [some_pack(seed) for seed in seeds]
    for seed, model, pack, found in zip(seeds, models, packs, losses_of(models, packs, joined), strict=True):
        stream = Stream.of([pack], CPU)
        assert_close(found, token_losses(reader_of(dense(kind, model, lora, seed)), stream))
        base = token_losses(reader_of(tiny(kind, seed).double()), stream)
        assert (found - base).abs().mean() > 0.1  # the adapters count


@KINDS
@JOINED
def test_gradients_follow_from_that_of_the_merged_weight(kind: str, joined: bool) -> None:
    """By the chain rule; nothing else has a gradient."""
    lora, seeds = lora_of(kind), (1, 2)
    scale = lora["alpha"] / lora["rank"]
    models = [learned(kind, lora, seed) for seed in seeds]
    packs = [some_pack(seed) for seed in seeds]
    torch.stack([losses.mean() for losses in losses_of(models, packs, joined)]).sum().backward()
    for seed, model, pack in zip(seeds, models, packs, strict=True):
        plain = dense(kind, model, lora, seed)
        token_losses(reader_of(plain), Stream.of([pack], CPU)).mean().backward()
        for name, weight, a, b in adapters(model):
            g = plain.get_submodule(name).weight.grad
            assert_close(b.grad, scale * g @ a.T)
            assert_close(a.grad, scale * b.T @ g)
            assert weight.grad is None
        assert sum(p.grad is not None for p in model.parameters()) == 4 * len(lora["targets"])


@pytest.mark.parametrize("alpha", [4, 50])
@pytest.mark.parametrize(
    ("kind", "targets", "rank", "frozen"),
    [
        ("neox", ["query_key_value"], 32, "A"),
        ("llama", ["q_proj", "v_proj"], 32, "A"),
        ("llama", ["q_proj"], 32, "B"),
        ("llama", ["v_proj"], 16, "B"),
    ],
)
def test_adapters_of_full_rank_are_trained_as_the_weights_are(
    kind: str, targets: list[str], rank: int, frozen: str, alpha: int
) -> None:
    """One factor is orthogonal and stays: SGD on the other is SGD on W at the rate times (alpha / rank) ** 2.

    Over some updates, as each begins where the dense one does.
    """
    lora = lora_of(kind, targets=targets, rank=rank, alpha=alpha)
    model = learned(kind, lora)
    factors = []
    for _, weight, a, b in adapters(model):
        stays, moves = (a, b) if frozen == "A" else (b, a)
        assert stays.shape == (rank, rank) and rank in weight.shape
        torch.nn.init.orthogonal_(stays).requires_grad_(False)
        factors.append(moves)
    plain = dense(kind, model, lora)
    weights = {name: plain.get_submodule(name).weight for name, *_ in adapters(model)}
    rate = 0.1
    lora_training = training_of(model, torch.optim.SGD(factors, lr=rate / (alpha / rank) ** 2))
    plain_training = training_of(plain, torch.optim.SGD(weights.values(), lr=rate))
    begin = merged(model, lora)
    for seed in range(3):
        stream = Stream.of([some_pack(seed)], CPU)
        update(Gang([model]).reader([0]), stream, [lora_training], SETTINGS)
        update(reader_of(plain), stream, [plain_training], SETTINGS)
        for name, now in merged(model, lora).items():
            assert_close(now - begin[name], weights[name].detach() - begin[name])


# ----------------------------------------------------------------------------------------------------------- updates


@KINDS
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_update_changes_adapters_only(kind: str, dropout: float) -> None:
    """From their beginning: as B is zero, the first update can but decay A; from the second on, both are trained."""
    lora = lora_of(kind, dropout=dropout)
    torch.manual_seed(3)
    model = add_adapters(tiny(kind), lora)
    before = copy.deepcopy(model.state_dict())
    factors = [(a, b) for _, _, a, b in adapters(model)]
    assert not any(b.any() for _, b in factors)
    rate, decay = 0.01, 0.5
    optimizer, schedule = make_optimizer(model, rate, 4, OPTIMIZER | {"weight_decay": decay})
    training = Training(model, optimizer, schedule, losses=np.empty((0, 0)), texts=np.empty((2, 0, 0)))
    gang = Gang([model], joined=dropout == 0)
    gang.train(True)
    started = [a.detach().clone() for a, _ in factors]
    for step, factor in enumerate([1 - rate * decay, 1 - 0.75 * rate * decay]):
        previous = [(a.detach().clone(), b.detach().clone()) for a, b in factors]
        update(gang.reader([0]), Stream.of([some_pack(step)], CPU), [training], SETTINGS)
        for (a, b), (old_a, old_b) in zip(factors, previous, strict=True):
            assert not torch.equal(b, old_b)
            assert torch.allclose(a, old_a * factor, rtol=1e-6, atol=0) == (step == 0)
    assert not any(torch.equal(a, old) for (a, _), old in zip(factors, started, strict=True))

    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == {name for name in before if "lora" in name} and len(changed) == 4 * len(lora["targets"])
    # All that the plain model has is among what did not change.
    plain = tiny(kind).state_dict()
    unchanged = {name.removeprefix("base_model.model.").replace(".base_layer", ""): after[name]
                 for name in after if name not in changed}  # fmt: skip
    assert unchanged.keys() == plain.keys()
    assert all(torch.equal(unchanged[name], weight) for name, weight in plain.items())

    held = {id(factor) for pair in factors for factor in pair}
    assert {id(parameter) for parameter in optimizer.state} == held
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == held
    assert all(p.grad is None for p in model.parameters() if id(p) not in held)


# ----------------------------------------------------------------------------------------------------------- dropout


@KINDS
def test_dropout_acts_in_training_only(kind: str) -> None:
    """On the adapters' inputs only; measuring draws no random numbers."""
    lora = lora_of(kind, dropout=0.3)
    model, stream = learned(kind, lora), Stream.of([some_pack(sequences=20)], CPU)
    gang = Gang([model], joined=False)

    @torch.no_grad()
    def losses(training: bool) -> torch.Tensor:
        gang.train(training)
        return token_losses(gang.reader([0]), stream)

    state = torch.get_rng_state()
    measured = losses(training=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(measured, token_losses(reader_of(dense(kind, model, lora)), stream).detach())
    first, second = losses(training=True), losses(training=True)
    assert not torch.allclose(first, measured) and not torch.allclose(first, second)
    assert torch.equal(losses(training=False), measured)

    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout) and part.p > 0:
            part.register_forward_hook(lambda _, inputs, output: pairs.append((inputs[0], output)))
    losses(training=True)
    assert len(pairs) == 2 * len(lora["targets"])
    for given, left in pairs:
        assert (left == 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
        torch.testing.assert_close(left[left != 0], given[left != 0] / 0.7)

    with torch.no_grad():
        for _, _, _, b in adapters(model):
            b.zero_()
    plain = losses(training=False)
    assert torch.equal(losses(training=True), plain) and not torch.allclose(plain, measured)


@KINDS
def test_adapters_and_their_dropout_are_reproducible_from_the_seed(kind: str) -> None:
    """Whatever was drawn before, and however often was measured in between."""
    stream = Stream.of([some_pack()], CPU)

    def train(seed: int, dropout: float = 0.3, measure: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
        base = tiny(kind)
        torch.rand(int(measure))
        torch.manual_seed(seed)
        model = add_adapters(base, lora_of(kind, dropout=dropout))
        optimizer, schedule = make_optimizer(model, 0.01, 5, OPTIMIZER)
        training = Training(model, optimizer, schedule, losses=np.empty((0, 0)), texts=np.empty((2, 0, 0)))
        first = next(adapters(model))[2].detach().clone()
        gang = Gang([model], joined=False)
        for _ in range(3):
            if measure:
                gang.train(False)
                with torch.inference_mode():
                    token_losses(gang.reader([0]), stream)
                sample(gang, some_texts(2))
            gang.train(True)
            update(gang.reader([0]), stream, [training], SETTINGS)
        return first, [factor.detach() for _, _, *factors in adapters(model) for factor in factors]

    begin, end = train(5)
    for measure in (False, True):
        same_begin, same_end = train(5, measure=measure)
        assert torch.equal(begin, same_begin)
        assert all(torch.equal(one, other) for one, other in zip(end, same_end, strict=True))
    other_begin, other_end = train(6)
    assert not torch.equal(begin, other_begin)
    assert not any(torch.equal(one, other) for one, other in zip(end, other_end, strict=True))
    # The beginning is the same without dropout, so what differs then is the dropout's doing.
    same_begin, without = train(5, dropout=0.0)
    assert torch.equal(begin, same_begin)
    assert not any(torch.equal(one, other) for one, other in zip(end, without, strict=True))


# ---------------------------------------------------------------------------------------------------------- sampling


def some_texts(count: int, most: int = 12) -> Texts:
    generator = np.random.default_rng(1)
    limits = generator.integers(1, most + 1, size=count).tolist()
    return Texts(
        prompts=[generator.integers(1, VOCABULARY, size=generator.integers(1, 40)).tolist() for _ in range(count)],
        uniform=generator.random((count, max(limits))),
        limits=limits,
    )


def sample(gang: Gang, *texts: Texts) -> list[list[list[int]]]:
    return generate(gang.reader, texts, SAMPLING, BUDGET, CPU)


@KINDS
def test_texts_are_those_of_the_merged_weights(kind: str) -> None:
    lora, seeds, texts = lora_of(kind), (1, 2), some_texts(20)
    models = [learned(kind, lora, seed) for seed in seeds]
    plain = [dense(kind, model, lora, seed) for seed, model in zip(seeds, models, strict=True)]
    expected = [sample(Gang([model]), texts)[0] for model in plain]
    assert sample(Gang(models), texts, texts) == expected
    for seed, model, rows in zip(seeds, models, expected, strict=True):
        assert sample(Gang([model], joined=False), texts) == [rows]
        base = sample(Gang([tiny(kind, seed).double()]), texts)[0]
        assert sum(one != other for one, other in zip(rows, base, strict=True)) > 10
    assert sum(row[-1] == END for rows in expected for row in rows) > 2
