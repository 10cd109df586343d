"""By how much losses change along a direction of the weights: forward mode, one pass over the examples.

For a batch, TracIn's sum over its examples of products with a test example's gradient is the derivative of the test
example's loss along the batch's gradient [TracIn, arXiv 2002.08484, eq. 1; linear in the direction]. So all test
examples are done in one pass that carries values and derivatives forward together: no gradient of any test example is
formed, nothing is kept for a way back, and the memory is that of reading the examples twice.

On one CPU core, with models of 0.2 to 3 million parameters, one direction takes 3.0 to 3.2 times what measuring the
losses takes. A way back through the activations alone, where what comes back to each layer is multiplied with what the
direction makes of its inputs (`hooks.Captured.direction`), takes 3.5 to 4.0 times; it gains where several directions
are asked for (two: 4.6 to 4.8 times, not 5.9 to 6.4). Several at once in forward mode (vmap) gain nothing.

The library's fused attention and what puts tokens into buckets have no forward mode. The attention below does: the
same buckets, with the derivative written out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.func import functional_call

from gptfluence.dynamics.packing import CausalAttention, Pack, Stream, read, token_losses

Direction = Mapping[str, torch.Tensor]
"""A change of the weights, by names of parameters; one that is not named does not change."""


def loss_changes(
    model: torch.nn.Module, packs: Sequence[Pack], direction: Direction
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean loss of each example and its derivative along a direction of the weights, exactly.

    Weights and products are taken as they are (fp32), dropout is off.

    Args:
        model: reads streams; its weights do not change.
        packs: the examples, cut to what is read in one go; a pack's rows say where its results go.
        direction: of any parameters, [their shapes].

    Returns:
        losses: [examples], in nats per token; derivatives: [examples], in nats per token for one whole direction.
    """
    device = next(model.parameters()).device
    count = sum(len(pack.rows) for pack in packs)
    losses, derivatives = torch.empty(2, count, device=device)
    parameters = dict(model.named_parameters())
    was_training = model.training
    model.eval()
    with torch.no_grad(), forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(parameters[name].detach(), change) for name, change in direction.items()}

        def reader(stream: Stream) -> torch.Tensor:
            return read(lambda **named: functional_call(model, dual, (), named), stream)

        for pack in packs:
            stream = Stream.of([pack], device)
            stream = replace(stream, attention=DifferentiableAttention(stream.attention))
            loss, change = forward_ad.unpack_dual(token_losses(reader, stream))
            for result, values in ((losses, loss), (derivatives, change)):
                result[pack.rows] = torch.segment_reduce(values, "mean", lengths=stream.kept)
    model.train(was_training)
    return losses, derivatives


class DifferentiableAttention:
    """What `CausalAttention` computes, also forward mode.

    Args:
        buckets: the stream's attention.
    """

    def __init__(self, buckets: CausalAttention) -> None:
        self._buckets, self.longest = buckets, buckets.longest
        self._masks: dict[int, torch.Tensor] = {}

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float
    ) -> torch.Tensor:
        """See `packing.Attention`."""
        query, key, value = (x.index_select(1, self._buckets.take) for x in (query * scale, key, value))
        if key.shape[0] != query.shape[0]:
            key, value = (x.repeat_interleave(query.shape[0] // key.shape[0], 0) for x in (key, value))
        rows = [count * length for count, length in self._buckets.shapes]
        outputs = []
        for shape, *parts in zip(self._buckets.shapes, *(x.split(rows, 1) for x in (query, key, value)), strict=True):
            matrices = (part.unflatten(1, shape).flatten(0, 1) for part in parts)
            output = _Softmax.apply(*matrices, self._mask(shape[1], query))
            outputs.append(output.unflatten(0, (-1, shape[0])).flatten(1, 2))
        joined = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        return joined.index_select(1, self._buckets.restore)

    def _mask(self, length: int, like: torch.Tensor) -> torch.Tensor:
        if length not in self._masks:
            mask = torch.full((1, length, length), -torch.inf, dtype=like.dtype, device=like.device)
            self._masks[length] = mask.triu_(1)
        return self._masks[length]


class _Softmax(torch.autograd.Function):
    """Attention over [matrices, n, size] each: o = w v with w = softmax(q k' + mask).

    The library has a forward mode of each part, but of the softmax one of many small operations; written out, all of
    a pass takes an eighth to a quarter less time on a CPU. With s = q k' + mask and d for changes: dw = w * (ds - sum(w
    * ds)), so do = (w * ds) v - sum(w * ds) o + w dv.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        weights = torch.softmax(torch.baddbmm(mask, query, key.transpose(1, 2)), -1)
        output = torch.bmm(weights, value)
        ctx.save_for_forward(query, key, value, weights, output)
        return output

    @staticmethod
    def jvp(ctx: Any, query_change: torch.Tensor, key_change: torch.Tensor, value_change: torch.Tensor, _: None) -> Any:
        query, key, value, weights, output = ctx.saved_tensors
        score_change = torch.bmm(query_change, key.transpose(1, 2)).baddbmm_(query, key_change.transpose(1, 2))
        change = score_change.mul_(weights)
        lost = change.sum(-1, keepdim=True) * output
        return torch.bmm(change, value).baddbmm_(weights, value_change).sub_(lost)
