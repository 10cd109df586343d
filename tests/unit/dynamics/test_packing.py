from __future__ import annotations

import functools
from collections import Counter

import gpts
import numpy as np
import pytest
import torch
from gptfluence.dynamics.cuts import Budget, bucket_length
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import (
    NAME,
    CausalAttention,
    Pack,
    Reader,
    Stream,
    mean_losses,
    pack_by_length,
    pack_examples,
    read,
    token_losses,
    within_budget,
)
from gptfluence.errors import UserError
from transformers import (
    PreTrainedModel,
)

CPU = torch.device("cpu")
VOCABULARY = 101
tiny = functools.partial(gpts.tiny, vocabulary=VOCABULARY)
# One token, one bucket's ends and what is just beyond them, and long ones.
LENGTHS = [2, 5, 16, 17, 40, 71, 15, 33, 2, 64, 65]


KINDS = pytest.mark.parametrize("kind", ["neox", "llama", "gpt2"])


def some_examples(lengths: list[int], seed: int = 1) -> list[Encoded]:
    """Random tokens; the target is anything from one token to all but one."""
    generator = np.random.default_rng(seed)
    return [
        Encoded(tuple(generator.integers(VOCABULARY, size=n).tolist()), int(generator.integers(1, n)), False)
        for n in lengths
    ]


def stream_of(*packs: list[Encoded]) -> Stream:
    return Stream.of([pack_examples(examples) for examples in packs], CPU)


def reader_of(model: PreTrainedModel) -> Reader:
    return functools.partial(read, model)


def plain_losses(model: PreTrainedModel, example: Encoded) -> torch.Tensor:
    """The library's own attention, one example, all logits; the losses of the target's tokens."""
    tokens = torch.tensor([example.tokens])
    model.set_attn_implementation("eager")
    try:
        log_probability = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
    finally:
        model.set_attn_implementation(NAME)
    return -log_probability.gather(1, tokens[0, 1:, None])[-example.target :, 0]


# --------------------------------------------------------------------------------------------------------- packs


def test_pack_holds_what_is_read_and_what_is_predicted() -> None:
    pack = Pack.of([((1, 2, 3), (4, 5)), ((6,), ()), ((7,), (8,))], [9, 4, 0])
    assert pack.rows.tolist() == [9, 4, 0]
    assert pack.tokens.tolist() == [1, 2, 3, 4, 6, 7]
    assert pack.lengths.tolist() == [4, 1, 1]
    assert pack.kept.tolist() == [2, 1, 1]
    assert pack.labels.tolist() == [4, 5, 0, 8]


def test_examples_predict_their_targets() -> None:
    examples = [Encoded((1, 2, 3, 4), 2, False), Encoded((5, 6), 1, True)]
    pack = pack_examples(examples)
    assert pack.rows.tolist() == [0, 1] and pack_examples(examples, [7, 3]).rows.tolist() == [7, 3]
    assert pack.tokens.tolist() == [1, 2, 3, 5]
    assert pack.labels.tolist() == [3, 4, 6]
    assert pack.kept.tolist() == [2, 1]


def test_stream_of_two_packs() -> None:
    first = Pack.of([((1, 2, 3), (4, 5)), ((6,), (7,))], [0, 1])
    stream = Stream.of([first, Pack.of([], []), Pack.of([((8, 9), (10,))], [0])], CPU)
    assert stream.tokens.tolist() == [[1, 2, 3, 4, 6, 8, 9]]
    assert stream.positions.tolist() == [[0, 1, 2, 3, 0, 0, 1]]
    assert stream.keep.tolist() == [2, 3, 4, 6]
    assert stream.labels.tolist() == [4, 5, 7, 10]
    assert stream.kept.tolist() == [2, 1, 1]
    assert stream.tokens_of == (5, 0, 2) and stream.logits_of == (3, 0, 1)
    assert stream.attention.longest == 4


def test_packs_hold_each_example_once() -> None:
    examples = some_examples(LENGTHS * 3)
    packs = pack_by_length(examples, Budget.of(128, VOCABULARY))
    assert sorted(row for pack in packs for row in pack.rows.tolist()) == list(range(len(examples)))
    assert len(packs) > 5
    for pack in packs:
        assert len(pack.tokens) <= 128
        expected = pack_examples([examples[row] for row in pack.rows], pack.rows.tolist())
        for name in ("tokens", "lengths", "kept", "labels"):
            np.testing.assert_array_equal(getattr(pack, name), getattr(expected, name))


def test_packs_of_runs_are_read_within_the_budget() -> None:
    sizes = [5, 3, 2, 11, 1, 9, 0, 1]
    packs = [(7 + i, Pack.of([(range(n), ())] if n else [], [0] if n else [])) for i, n in enumerate(sizes)]
    parts = within_budget(packs, Budget.of(10, 1))
    assert [[len(pack.tokens) for _, pack in part] for part in parts] == [[5, 3, 2], [11], [1, 9, 0], [1]]
    assert [number for part in parts for number, _ in part] == [number for number, _ in packs]
    assert within_budget([], Budget.of(10, 1)) == []


# ------------------------------------------------------------------------------------------------------- reading


@KINDS
def test_losses_equal_a_plain_forward_pass(kind: str) -> None:
    model, examples = tiny(kind), some_examples(LENGTHS)
    with torch.no_grad():
        ours = token_losses(reader_of(model), stream_of(examples[:6], examples[6:]))
        means = mean_losses(reader_of(model), stream_of(examples[:6], examples[6:]))
        plain = [plain_losses(model, example) for example in examples]
    torch.testing.assert_close(ours, torch.cat(plain), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(means, torch.stack([losses.mean() for losses in plain]), rtol=1e-5, atol=1e-5)


@KINDS
def test_gradients_equal_those_of_the_plain_way(kind: str) -> None:
    model, examples = tiny(kind), some_examples(LENGTHS)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, list(model.parameters())))

    ours = gradients(token_losses(reader_of(model), stream_of(examples)).mean())
    plain = gradients(torch.cat([plain_losses(model, example) for example in examples]).mean())
    for (name, _), mine, theirs in zip(model.named_parameters(), ours, plain, strict=True):
        scale = theirs.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * scale, msg=lambda text, name=name: name + text)


@KINDS
def test_sequences_of_one_token(kind: str) -> None:
    """By themselves, and among others; nothing but the token itself is looked at."""
    model = tiny(kind)
    examples = some_examples([2, 2, 2])
    with torch.no_grad():
        plain = torch.cat([plain_losses(model, example) for example in examples])
        torch.testing.assert_close(token_losses(reader_of(model), stream_of(examples)), plain, rtol=1e-5, atol=1e-5)
        for example, loss in zip(examples, plain, strict=True):
            others = some_examples([9, 30])
            beside = token_losses(reader_of(model), stream_of([others[0], example, others[1]]))
            torch.testing.assert_close(beside[others[0].target], loss, rtol=1e-5, atol=1e-5)


def test_empty_continuation_gives_the_logits_after_its_context() -> None:
    model = tiny("llama")
    contexts = [[5, 6, 7], [8], list(range(20))]
    stream = Stream.of([Pack.of([(context, ()) for context in contexts], range(3))], CPU)
    with torch.no_grad():
        logits = read(model, stream)
        model.set_attn_implementation("eager")
        plain = torch.stack([model(input_ids=torch.tensor([context])).logits[0, -1] for context in contexts])
    torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-5)


@KINDS
def test_companions_change_nothing_but_the_matrices_sizes(kind: str) -> None:
    """Bit for bit, as long as those are the same; else there is the rounding of a matrix product of other size."""
    model, (example, *_) = tiny(kind), some_examples([23])
    companies = [some_examples([25], 2), some_examples([12, 14], 3), some_examples([5, 6, 7, 10], 4)]
    companies = [[Encoded(other.tokens, 12 // len(company), False) for other in company] for company in companies]
    with torch.no_grad():
        streams = [stream_of([example, *company]) for company in companies]
        assert len({(stream.tokens.shape, stream.keep.shape) for stream in streams}) == 1
        losses = [token_losses(reader_of(model), stream)[: example.target] for stream in streams]
        assert all(torch.equal(losses[0], other) for other in losses)
        alone = token_losses(reader_of(model), stream_of([example]))
        behind = token_losses(reader_of(model), stream_of([*some_examples(LENGTHS), example]))[-example.target :]
    torch.testing.assert_close(alone, losses[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(behind, losses[0], rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- attention


def attend(parts: list[list[torch.Tensor]], weights: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Let sequences stand one behind the other; return each one's output, and the gradients of its parts.

    Args:
        parts: of each sequence query, key and value, [heads, n, size].
        weights: what each output's gradient is.
    """
    joined = [torch.cat(part, 1).requires_grad_() for part in zip(*parts, strict=True)]
    lengths = [query.shape[1] for query, *_ in parts]
    output = CausalAttention(np.array(lengths), CPU)(0, *joined, 0.3, 0.0)
    results = [output.detach(), *torch.autograd.grad(output, joined, torch.cat(weights, 1))]
    return [list(x) for x in zip(*(result.split(lengths, 1) for result in results), strict=True)]


def test_attention_of_a_sequence_is_its_own() -> None:
    """Bit for bit, whatever stands before and behind it, and right."""
    generator = torch.Generator().manual_seed(1)
    random = np.random.default_rng(1)

    def sequence(length: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        shapes = [(4, length, 8), (2, length, 8), (2, length, 8), (4, length, 8)]
        *parts, weight = (torch.randn(shape, generator=generator) for shape in shapes)
        return parts, weight

    for length in (1, 2, 15, 16, 17, 33, 90):
        parts, weight = sequence(length)
        (alone,) = attend([parts], [weight])
        query, key, value = (part.double().requires_grad_() for part in parts)
        scores = query @ key.repeat_interleave(2, 0).transpose(1, 2) * 0.3
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        output = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value.repeat_interleave(2, 0)
        plain = [output, *torch.autograd.grad(output, (query, key, value), weight.double())]
        for mine, theirs in zip(alone, plain, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
        for _ in range(5):
            others = [sequence(int(n)) for n in random.integers(1, 100, size=random.integers(1, 6))]
            place = int(random.integers(len(others) + 1))
            together = [*others[:place], (parts, weight), *others[place:]]
            found = attend([part for part, _ in together], [w for _, w in together])[place]
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, alone, strict=True))


def test_sequences_are_filled_up_to_like_lengths_only() -> None:
    attention = CausalAttention(np.array(LENGTHS), CPU)
    buckets = Counter(map(bucket_length, LENGTHS))
    assert sorted(attention.shapes) == sorted((count, length) for length, count in buckets.items())
    assert len(buckets) > 3 and attention.longest == max(LENGTHS)


def test_window_is_allowed_only_where_it_hides_nothing() -> None:
    model = tiny("mistral", sliding_window=16)
    fitting = some_examples([17, 9])  # of 17 tokens, 16 are read
    with torch.no_grad():
        losses = token_losses(reader_of(model), stream_of(fitting))
        plain = torch.cat([plain_losses(model, example) for example in fitting])
        torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
        with pytest.raises(UserError, match="its attention reaches back 16 tokens only"):
            read(model, stream_of(some_examples([9, 18])))


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss"])
def test_attention_of_another_kind_is_refused(kind: str) -> None:
    with torch.no_grad(), pytest.raises(UserError, match="its attention has a soft cap or sinks"):
        read(tiny(kind), stream_of(some_examples([5])))
