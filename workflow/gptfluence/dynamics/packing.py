"""Sequences one behind the other in a single row: no padding is multiplied, and logits are computed where they count.

A `Pack` holds the sequences of one run, a `Stream` the packs of all runs that are computed together. A model reads a
stream as one long row whose positions start anew with each sequence. What keeps the sequences apart is the attention
below, which every model is loaded with: it takes each token to the row of its sequence, in a bucket of like lengths,
and calls the library's causal attention on each bucket, which needs no mask. Whatever else runs on a stream works on
each token by itself, so what a sequence gives does not depend on what stands beside it, but for the last digits that a
product of matrices owes to their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AttentionInterface

from gptfluence.dynamics.cuts import Budget, bucket_length, cut, cut_by_length
from gptfluence.dynamics.examples import Encoded
from gptfluence.errors import UserError


@dataclass(frozen=True)
class Pack:
    """Sequences of one run, to be read in one go.

    Attributes:
        rows: [sequences]; where each came from, in what the pack was made of.
        tokens: [n]; the sequences' tokens, one behind the other.
        lengths: [sequences]; they add up to n.
        kept: [sequences]; of how many tokens at its end logits are needed; they add up to m.
        labels: [m]; what these tokens should predict.
    """

    rows: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    kept: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], rows: Sequence[int]) -> Pack:
        """Make a pack of (context, continuation) pairs: what follows each context, token by token, is predicted.

        A continuation's last token is not read, as nothing is predicted from it. One of no tokens still gives the
        logits after its context, and the label 0.
        """
        read = [(*context, *continuation[:-1]) for context, continuation in sequences]
        kept = [max(len(continuation), 1) for _, continuation in sequences]
        labels = [token for _, continuation in sequences for token in (continuation or (0,))]
        return cls(
            np.asarray(rows, np.int64),
            np.array([token for tokens in read for token in tokens], np.int64),
            np.array([len(tokens) for tokens in read], np.int64),
            np.array(kept, np.int64),
            np.array(labels, np.int64),
        )


def pack_examples(examples: Sequence[Encoded], rows: Sequence[int] | None = None) -> Pack:
    """Pack examples so that their targets are predicted."""
    pairs = [(example.prompt, example.tokens[len(example.prompt) :]) for example in examples]
    return Pack.of(pairs, range(len(pairs)) if rows is None else rows)


def pack_by_length(examples: Sequence[Encoded], budget: Budget) -> list[Pack]:
    """Cut the examples into packs within the budget, the short ones first."""
    groups = cut_by_length([(len(example.tokens), example.target) for example in examples], budget)
    return [pack_examples([examples[i] for i in group], group) for group in groups]


def within_budget(packs: Sequence[tuple[int, Pack]], budget: Budget) -> list[list[tuple[int, Pack]]]:
    """Cut numbered packs, one of each run, into parts that are read in one go."""
    groups = cut([(len(pack.tokens), len(pack.labels)) for _, pack in packs], budget)
    return [[packs[i] for i in group] for group in groups]


# ------------------------------------------------------------------------------------------------------- streams


class Attention(Protocol):
    """How the tokens of a stream look at each other.

    Attributes:
        longest: the most tokens that one of them looks at.
    """

    longest: int

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float
    ) -> torch.Tensor:
        """Return what each token takes up from those before it.

        Args:
            layer: the attention layer's number.
            query: [heads, n, size].
            key, value: [key heads, n, size]; each key head serves equally many heads, in their order.

        Returns:
            [heads, n, size].
        """
        ...


@dataclass(frozen=True)
class Stream:
    """The packs of one or more runs, one behind the other, as a model reads them.

    Attributes:
        tokens, positions: [1, n].
        keep: [m]; the tokens whose logits are needed.
        labels: [m].
        kept: [sequences] each; of how many tokens logits are needed.
        tokens_of, logits_of: how many tokens and logits are each run's.
        attention: keeps the sequences apart.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    keep: torch.Tensor
    labels: torch.Tensor
    kept: torch.Tensor
    tokens_of: tuple[int, ...]
    logits_of: tuple[int, ...]
    attention: Attention

    @classmethod
    def of(cls, packs: Sequence[Pack], device: torch.device) -> Stream:
        """Join packs, one of each run."""
        lengths, kept = (np.concatenate([getattr(pack, name) for pack in packs]) for name in ("lengths", "kept"))
        ends = lengths.cumsum()
        last = np.repeat(ends - kept.cumsum(), kept)  # each kept token's place, but for its number among the kept

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            tokens=tensor(np.concatenate([pack.tokens for pack in packs]))[None],
            positions=tensor(np.arange(ends[-1]) - np.repeat(ends - lengths, lengths))[None],
            keep=tensor(last + np.arange(kept.sum())),
            labels=tensor(np.concatenate([pack.labels for pack in packs])),
            kept=tensor(kept),
            tokens_of=tuple(len(pack.tokens) for pack in packs),
            logits_of=tuple(len(pack.labels) for pack in packs),
            attention=CausalAttention(lengths, device),
        )


Reader = Callable[[Stream], torch.Tensor]
"""A model, or several that read together: takes a stream, returns the logits of its kept tokens, [m, vocabulary]."""


def read(model: Callable[..., Any], stream: Stream) -> torch.Tensor:
    """Return the logits of the stream's kept tokens, [m, vocabulary]."""
    output = model(
        input_ids=stream.tokens,
        position_ids=stream.positions,
        logits_to_keep=stream.keep,
        use_cache=False,
        packed_attention=stream.attention,
    )
    return output.logits[0]


def token_losses(reader: Reader, stream: Stream) -> torch.Tensor:
    """Return the loss of each label, [m], in nats."""
    return torch.nn.functional.cross_entropy(reader(stream).float(), stream.labels, reduction="none")


def mean_losses(reader: Reader, stream: Stream) -> torch.Tensor:
    """Return the mean loss over the labels of each sequence, [sequences], in nats per token."""
    return torch.segment_reduce(token_losses(reader, stream), "mean", lengths=stream.kept)


@torch.no_grad()
def measure(model: torch.nn.Module, packs: Sequence[Pack]) -> np.ndarray:
    """Return the mean loss of each example of some packs, [examples] of float32, by the rows that they came from."""
    device = next(model.parameters()).device
    losses = np.empty(sum(len(pack.rows) for pack in packs), np.float32)
    for pack in packs:
        losses[pack.rows] = mean_losses(lambda s: read(model, s), Stream.of([pack], device)).cpu().numpy()
    return losses


# ----------------------------------------------------------------------------------------------------- attention


class CausalAttention:
    """Each token looks at the tokens of its sequence up to itself.

    Args:
        lengths: [sequences] of the stream.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device) -> None:
        self.longest = int(lengths.max())
        starts = lengths.cumsum() - lengths
        # A bucket's length depends on the sequence's own alone, and so does all that is computed of it.
        bucket_of = np.array([bucket_length(n) for n in lengths.tolist()])
        take, self.shapes = [], []
        restore = np.empty(lengths.sum(), np.int64)
        filled = 0
        for length in np.unique(bucket_of):
            chosen = np.flatnonzero(bucket_of == length)
            columns = np.arange(length)
            # Behind a sequence's end stands its last token again; nobody looks at what follows.
            rows = starts[chosen, None] + np.minimum(columns, lengths[chosen, None] - 1)
            real = columns < lengths[chosen, None]
            restore[rows[real]] = filled + np.flatnonzero(real)
            take.append(rows.ravel())
            self.shapes.append((len(chosen), int(length)))
            filled += rows.size
        self.take = torch.from_numpy(np.concatenate(take)).to(device)
        self.restore = torch.from_numpy(restore).to(device)

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float
    ) -> torch.Tensor:
        """See `Attention`."""
        query, key, value = (_ToBuckets.apply(x, self.take, self.restore) for x in (query, key, value))
        if key.shape[0] != query.shape[0]:
            key, value = (x.repeat_interleave(query.shape[0] // key.shape[0], 0) for x in (key, value))
        size = query.shape[-1]
        if size % 8:  # with sizes such as 10, the library's gradients depend in their last bits on a row's place
            query, key, value = (torch.nn.functional.pad(x, (0, -size % 8)) for x in (query, key, value))
        rows = [count * length for count, length in self.shapes]
        outputs = []
        for (count, length), *parts in zip(self.shapes, *(x.split(rows, 1) for x in (query, key, value)), strict=True):
            q, k, v = (part.unflatten(1, (count, length)) for part in parts)
            output = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scale, dropout_p=dropout
            )
            outputs.append(output.flatten(1, 2))
        joined = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        return _FromBuckets.apply(joined, self.take, self.restore)[..., :size]


class _ToBuckets(torch.autograd.Function):
    """Put tokens into their buckets. Nothing comes back from what only fills them up."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, take: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        ctx.restore = restore
        return x.index_select(1, take)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(1, ctx.restore), None, None


class _FromBuckets(torch.autograd.Function):
    """Put tokens back into the stream's order."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, take: torch.Tensor, restore: torch.Tensor) -> torch.Tensor:
        ctx.rows, ctx.restore = len(take), restore
        return x.index_select(1, restore)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        whole = gradient.new_zeros(gradient.shape[0], ctx.rows, *gradient.shape[2:])
        return whole.index_copy_(1, ctx.restore, gradient), None, None


# Compiled, it would be compiled anew for each layout of buckets.
@torch.compiler.disable
def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed_attention: Attention | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What a model's layers call: [1, heads, n, size] each; the stream decides who looks at whom.

    Raises:
        UserError: the model wants an attention of another kind.
    """
    if packed_attention is None:
        raise UserError("its layers do not tell the attention which sequences there are, so it cannot be used")
    if softcap is not None or s_aux is not None:
        raise UserError("its attention has a soft cap or sinks, which is not supported")
    if sliding_window is not None and sliding_window < packed_attention.longest:
        raise UserError(
            f"its attention reaches back {sliding_window} tokens only: set dynamics.models.*.max_length to that or less"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = packed_attention(module.layer_idx, query[0], key[0], value[0], scale, dropout)
    return output.transpose(0, 1)[None], None


NAME = "gptfluence_packed"
"""The attention's name in the library: `attn_implementation` of every model that reads streams."""

# Registered as an attention alone: for one that has no mask function of its own, the library makes no mask.
AttentionInterface.register(NAME, _attend)
