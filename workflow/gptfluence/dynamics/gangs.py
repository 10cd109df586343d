"""Several runs of one model as one computation: they differ in weights and in what they read, in nothing else.

The packs of all runs stand one behind the other in one stream. What is the same for every number (sums, products) or
works on each sequence by itself (attention) is done for the whole stream at once. A layer works on each run's part,
with that run's parameters, by the very call that a run alone would make: also one without parameters, as the processor
takes the last few numbers of an array another way than the others. So a run's numbers do not depend on its company,
bit for bit, and each run keeps a model and an optimiser of its own.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from gptfluence.dynamics.packing import Pack, Reader, Stream, read

LOG = logging.getLogger("gptfluence")

_ALIGNMENT = 64  # bytes; of all tensors on the CPU

# Weights, gradients and AdamW's two moments in fp32.
_BYTES_OF_A_PARAMETER = 16


class Gang:
    """Models of one architecture that read streams together.

    Args:
        models: one of each run.
        joined: whether they are computed as one. Also a single model then is, so that its sums are formed in the same
            order; without, there may be one only, and it is called as it is.
    """

    def __init__(self, models: Sequence[torch.nn.Module], joined: bool = True) -> None:
        assert joined or len(models) == 1
        self._models, self._joined = tuple(models), joined
        if joined:
            self._skeleton, self._parts = _join(self._models)

    def train(self, mode: bool) -> None:
        """Prepare for an update, or for measuring; that differs only where training draws random numbers."""
        if not self._joined:
            self._models[0].train(mode)

    def reader(self, members: Sequence[int]) -> Reader:
        """Return what reads streams of as many packs as there are members, in their order."""
        if not self._joined:
            return functools.partial(read, self._models[0])

        def read_together(stream: Stream) -> torch.Tensor:
            sizes = {sum(sizes): sizes for sizes in (stream.logits_of, stream.tokens_of)}
            for part in self._parts:
                part.choose(members, sizes)
            return read(self._skeleton, stream)

        return read_together


class _Parts(torch.nn.Module):
    """One layer of all runs: each run's own works on that run's part of the stream."""

    def __init__(self, layers: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self._layers = tuple(layers)  # a tuple is no submodule: the parameters stay the runs'
        if isinstance(weight := getattr(layers[0], "weight", None), torch.Tensor):
            object.__setattr__(self, "weight", weight)  # some models look at its type or device

    def choose(self, members: Sequence[int], sizes: dict[int, tuple[int, ...]]) -> None:
        """Say whose layers work next, and how inputs of each length are shared out among them."""
        self._chosen, self._sizes = [self._layers[i] for i in members], sizes

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Take and return [1, n, ...], or tuples of such."""
        parts = [self._split(x) for x in inputs]
        named_parts = [self._split(x) for x in named.values()]
        results = [
            layer(*(part[i] for part in parts), **{key: part[i] for key, part in zip(named, named_parts, strict=True)})
            for i, layer in enumerate(self._chosen)
        ]
        if isinstance(results[0], tuple):
            return tuple(_cat(each) for each in zip(*results, strict=True))
        return _cat(results)

    def _split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = x.split(self._sizes[x.shape[1]], 1)
        # A part begins where a tensor of its own would: some products of matrices depend on that in their last bits.
        return tuple(part.clone() if part.is_cpu and part.data_ptr() % _ALIGNMENT else part for part in parts)


def _cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(parts), 1) if len(parts) > 1 else parts[0]


def _join(models: Sequence[torch.nn.Module]) -> tuple[torch.nn.Module, list[_Parts]]:
    """Return a model without parameters, and what stands in it for the layers of all."""
    # The copy has its own settings, and shares the weights until their layers are replaced.
    memo = {id(parameter): parameter for parameter in models[0].parameters()}
    skeleton = copy.deepcopy(models[0], memo)
    parts: list[_Parts] = []
    for name, module in list(skeleton.named_modules()):
        owns = next(module.parameters(recurse=False), None) is not None
        does_nothing = isinstance(module, torch.nn.Dropout | torch.nn.Identity)
        if owns or not (does_nothing or next(module.children(), None)):
            parts.append(_Parts([model.get_submodule(name) for model in models]))
            parent, _, leaf = name.rpartition(".")
            setattr(skeleton.get_submodule(parent), leaf, parts[-1])
    return skeleton, parts


def can_join(model: PreTrainedModel, lora: dict[str, Any] | None, device: torch.device) -> bool:
    """Whether runs of the model can be computed as one.

    Not where training draws random numbers, which are a run's; nor adapters, whose models are large and whose narrow
    layers give other last bits beside others; nor a class whose layers take more than the tokens of a stream.
    """
    if lora is not None or _draws_in_training(model):
        return False
    pack = Pack.of([((1, 2, 3), (4, 5)), ((3,), (1, 2))], range(2))
    with torch.no_grad():
        alone = read(model, Stream.of([pack], device))
        try:
            together = Gang([model, model]).reader([0, 1])(Stream.of([pack, pack], device))
        except Exception as error:  # whatever it is, such a class can be computed run by run
            LOG.info("runs are computed one by one: %s: %s", type(error).__name__, error)
            return False
    return torch.allclose(together, torch.cat([alone, alone]), rtol=1e-4, atol=1e-4 * alone.abs().max().item())


def _draws_in_training(model: PreTrainedModel) -> bool:
    if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    heads = ("classifier", "summary")  # of other models than these
    rates = [value for key, value in model.config.to_dict().items()
             if ("drop" in key or "jitter" in key) and not key.startswith(heads)]  # fmt: skip
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def gang_width(model: PreTrainedModel, memory_gb: float) -> int:
    """Return how many runs are computed as one: as many as half of the memory holds; the rest is for what they read."""
    size = sum(parameter.numel() for parameter in model.parameters()) * _BYTES_OF_A_PARAMETER
    return max(1, int(memory_gb * 1e9 / 2 / size))
