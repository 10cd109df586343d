"""Gradients of each example's own loss, from one forward and one backward pass over many examples.

A layer's gradient for one example is made of what the layer read and of what came back to its output: of a linear one
the sum over the example's tokens of g_t a_t'. Both are caught by hooks, and no gradient of any weight is computed on
the way back. Examples stand one behind the other in a stream (see `dynamics.packing`), so each gives what it would give
by itself, but for rounding, and a layer's gradients are formed when they are asked for, one parameter at a time: what
is held are the activations of a pack and the gradients of one parameter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from gptfluence.attribution.projection import Projection
from gptfluence.dynamics.cuts import Budget, cut
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import Pack, Stream, pack_by_length, read, token_losses
from gptfluence.errors import UserError

_HELD = 1 << 23  # numbers that are formed at once where gradients are multiplied, 32 MiB
_OVERHEAD = 64  # what a number of a table [tokens, tokens] costs beside its products, in multiplications

Kind = Literal["linear", "bias", "norm", "embedding"]
Parameters = Literal["linear", "all"]


@dataclass(frozen=True)
class Block:
    """One parameter whose gradients are taken.

    Attributes:
        name: in the model.
        kind: linear (its weight multiplies activations; the output head's too), bias (of a linear layer), norm (weight
            or bias of one), or embedding (also where the output head shares it).
        shape: the parameter's.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in the parameter."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class _Use:
    """Where a parameter is used: the layer, by name and itself, and as what."""

    layer: str
    module: torch.nn.Module
    role: Literal["weight", "bias"]


@dataclass(frozen=True)
class _Caught:
    """What a layer read and what came back to its output, of the tokens that anything came back to.

    Attributes:
        input: [n, in], or [n] token ids.
        gradient: [n, out].
        lengths: [examples]; they add up to n.
    """

    input: torch.Tensor
    gradient: torch.Tensor
    lengths: torch.Tensor

    def spans(self) -> list[tuple[int, int]]:
        ends = self.lengths.cumsum(0).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def examples(self) -> torch.Tensor:
        """Return whose each token is, [n]."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    def cut(self, tokens: int) -> Iterator[tuple[slice, _Caught]]:
        """Cut the examples into parts of at most so many tokens, or of one example."""
        spans = self.spans()
        for part in cut([(end - start, 0) for start, end in spans], Budget(tokens, 0)):
            start, end = spans[part[0]][0], spans[part[-1]][1]
            which = slice(part[0], part[-1] + 1)
            yield which, _Caught(self.input[start:end], self.gradient[start:end], self.lengths[which])


class ExampleGradients:
    """Takes gradients of single examples of a model's mean losses.

    Args:
        model: reads streams; its weights do not change, nor does what requires gradients.
        parameters: linear (the weights of its linear layers, the output head's not among them) or all that are trained:
            also biases, norms, embeddings and the head. With adapters, only these are trained.

    Attributes:
        blocks: the parameters, in the model's order.
        device: where they are.

    Raises:
        UserError: a trained parameter is of a layer that is not known, or none is left.
    """

    def __init__(self, model: torch.nn.Module, parameters: Parameters = "all") -> None:
        self._model = model
        self.device = next(model.parameters()).device
        self._uses: dict[str, list[_Use]] = {}
        head = _output_head(model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        blocks: dict[str, Block] = {}
        for layer, module in model.named_modules():
            for role, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                if not parameter.requires_grad:
                    continue
                kind = _kind(module, role)
                if parameters == "linear" and (kind != "linear" or module is head):
                    continue
                if kind is None:
                    raise UserError(
                        f"{layer}.{role}: gradients of a {type(module).__name__} are not known; set "
                        "attribution.parameters to linear"
                    )
                name = names[id(parameter)]
                if name in blocks and kind == "embedding":  # the head that shares it came first
                    blocks[name] = Block(name, kind, tuple(parameter.shape))
                blocks.setdefault(name, Block(name, kind, tuple(parameter.shape)))
                self._uses.setdefault(name, []).append(_Use(layer, module, role))
        if not blocks:
            raise UserError(f"the model has no parameters of the kind '{parameters}' that are trained")
        self.blocks = tuple(blocks.values())
        self._layers = {use.layer: use.module for uses in self._uses.values() for use in uses}
        self._embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]

    def capture(self, pack: Pack) -> Captured:
        """Read a pack forward and back.

        Raises:
            UserError: a loss or a gradient is not finite; says of which example.
        """
        stream = Stream.of([pack], self.device)
        lengths = torch.from_numpy(pack.lengths).to(self.device)
        inputs: dict[str, torch.Tensor] = {}
        outputs: dict[str, torch.Tensor] = {}
        with self._hooked(inputs, outputs):
            losses = token_losses(lambda s: read(self._model, s), stream)
            means = torch.segment_reduce(losses, "mean", lengths=stream.kept)
            back = torch.autograd.grad(means.sum(), list(outputs.values()), allow_unused=True)
        _check_finite(pack, means, "loss is")
        caught = {}
        for (layer, output), gradient in zip(outputs.items(), back, strict=True):
            rows = output.shape[1]
            gradient = torch.zeros_like(output) if gradient is None else gradient
            own = stream.kept if rows == len(stream.labels) else lengths
            caught[layer] = _catch(pack, layer, inputs[layer].detach()[0], gradient.detach()[0], own)
        return Captured(means.detach(), self._uses, caught)

    @contextlib.contextmanager
    def _hooked(self, inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> Iterator[None]:
        """Have the layers' inputs and outputs noted, and gradients flow through activations alone."""
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        was_training = self._model.training
        handles = [m.register_forward_hook(lambda _, __, out: out.detach().requires_grad_()) for m in self._embeddings]

        def note(layer: str, out: torch.Tensor, read_: torch.Tensor) -> None:
            inputs[layer], outputs[layer] = read_, out

        handles += [
            module.register_forward_hook(lambda _, args, out, layer=layer: note(layer, out, args[0]))
            for layer, module in self._layers.items()
        ]
        self._model.eval()
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            with torch.enable_grad():
                yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            for handle in handles:
                handle.remove()
            self._model.train(was_training)


class Captured:
    """What is needed to form the gradients of a pack's examples.

    Attributes:
        losses: [examples], the mean loss of each over its target tokens, nats per token.
    """

    def __init__(self, losses: torch.Tensor, uses: dict[str, list[_Use]], caught: dict[str, _Caught]) -> None:
        self.losses, self._uses, self._caught = losses, uses, caught

    @classmethod
    def joined(cls, parts: Sequence[Captured]) -> Captured:
        """Return the examples of several packs, one pack behind the other."""
        caught = {
            layer: _Caught(
                torch.cat([part._caught[layer].input for part in parts]),
                torch.cat([part._caught[layer].gradient for part in parts]),
                torch.cat([part._caught[layer].lengths for part in parts]),
            )
            for layer in parts[0]._caught
        }
        return cls(torch.cat([part.losses for part in parts]), parts[0]._uses, caught)

    def block(self, block: Block) -> torch.Tensor:
        """Return the gradient of each example's mean loss, [examples, *block.shape]."""
        return self._rows(block, 0, block.shape[0])

    def _rows(self, block: Block, start: int, stop: int) -> torch.Tensor:
        """Return a part of the gradients, [examples, stop - start, *block.shape[1:]]."""
        first, *others = [
            _gradients(use, self._caught[use.layer], block, start, stop) for use in self._uses[block.name]
        ]
        for other in others:
            first += other
        return first

    def projected(self, block: Block, projection: Projection) -> torch.Tensor:
        """Return the projected gradients, [examples, projection.width], without the whole ones of a linear layer."""
        total: torch.Tensor | None = None
        for use in self._uses[block.name]:
            caught = self._caught[use.layer]
            if projection.right is None or not _is_product(use):
                part = projection.apply(_gradients(use, caught, block, 0, block.shape[0]))
            else:
                out, read_ = (
                    (projection.right, projection.left) if _transposed(use) else (projection.left, projection.right)
                )
                small = _Caught(caught.input @ read_.T, caught.gradient @ out.T, caught.lengths)
                part = _outer_products(small, _transposed(use), slice(None)).flatten(1)
            total = part if total is None else total + part
        assert total is not None
        return total

    def products(self, other: Captured, blocks: Sequence[Block]) -> torch.Tensor:
        """Return the products of these examples' gradients with others', over some blocks, [examples, others].

        Beside the examples' activations it takes 32 MiB (more, where one row of a parameter's gradients is larger).
        """
        total = self.losses.new_zeros(len(self.losses), len(other.losses))
        for block in blocks:
            uses = [
                (one, self._caught[one.layer], two, other._caught[two.layer])
                for one in self._uses[block.name]
                for two in other._uses[block.name]
            ]
            tokens = sum(len(a.gradient) + len(b.gradient) for _, a, _, b in uses)
            formed = (total.numel() + tokens) * block.size
            if len(block.shape) == 2 and sum(_cost_by_tokens(*each, block) for each in uses) < formed:
                for each in uses:
                    _add_products_by_tokens(total, *each)
                continue
            rows = max(1, _HELD // ((len(self.losses) + len(other.losses)) * (block.size // block.shape[0])))
            for start in range(0, block.shape[0], rows):
                stop = min(start + rows, block.shape[0])
                mine, others = (part._rows(block, start, stop).flatten(1) for part in (self, other))
                total += mine @ others.T
        return total

    def direction(self, block: Block, direction: torch.Tensor) -> torch.Tensor:
        """Return the products of the examples' gradients with one direction, [examples], without forming them.

        Args:
            direction: of the block's shape.
        """
        total = torch.zeros_like(self.losses)
        for use in self._uses[block.name]:
            caught = self._caught[use.layer]
            if _is_product(use):
                matrix = direction.T if _transposed(use) else direction
                products = ((caught.input @ matrix.T) * caught.gradient).sum(1)
                total += torch.segment_reduce(products, "sum", lengths=caught.lengths)
            elif isinstance(use.module, torch.nn.Embedding):
                products = (direction[caught.input] * caught.gradient).sum(1)
                total += torch.segment_reduce(products, "sum", lengths=caught.lengths)
            else:
                total += _gradients(use, caught, block, 0, block.shape[0]) @ direction
        return total


def gradients_of(
    gradients: ExampleGradients, examples: Sequence[Encoded], budget: Budget
) -> Iterator[tuple[np.ndarray, Captured]]:
    """Read examples in packs within the budget, the short ones first.

    Yields:
        Which examples a pack holds, [examples in it], and their gradients.
    """
    for pack in pack_by_length(examples, budget):
        yield pack.rows, gradients.capture(pack)


def gradient_products(
    gradients: ExampleGradients, train: Sequence[Encoded], test: Sequence[Encoded], budget: Budget
) -> np.ndarray:
    """Return <grad L_i, grad L_z> of each training and test example, [train, test] of float32.

    Exact, and a sum over parameters. Either the gradients of a parameter are formed, some of its rows at a time, and
    multiplied, or, where that is cheaper (large vocabularies, few tokens), the products of tokens are added up. What is
    held are the activations of all tests and of about as many tokens of training examples, and 32 MiB of gradients:
    memory does not grow with the training examples but for the result.
    """
    tests = list(gradients_of(gradients, test, budget))
    columns, others = np.concatenate([rows for rows, _ in tests]), Captured.joined([part for _, part in tests])
    del tests
    result = np.zeros((len(train), len(test)), np.float32)
    # The tests' gradients are formed anew for each group: groups as large as the tests make that as cheap as their own.
    packs = pack_by_length(train, budget)
    most = max(budget.tokens, sum(len(example.tokens) for example in test))
    for group in cut([(len(pack.tokens), 0) for pack in packs], Budget(most, 0)):
        rows = np.concatenate([packs[i].rows for i in group])
        captured = Captured.joined([gradients.capture(packs[i]) for i in group])
        result[np.ix_(rows, columns)] = captured.products(others, gradients.blocks).cpu().numpy()
    return result


# ------------------------------------------------------------------------------------------------------- layers


def _kind(module: torch.nn.Module, role: str) -> Kind | None:
    if isinstance(module, torch.nn.Linear | Conv1D):
        return "linear" if role == "weight" else "bias"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    return "norm" if _is_norm(module) else None


def _is_norm(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")


def _output_head(model: torch.nn.Module) -> torch.nn.Module | None:
    find = getattr(model, "get_output_embeddings", None)
    return find() if find else None


def _is_product(use: _Use) -> bool:
    return use.role == "weight" and isinstance(use.module, torch.nn.Linear | Conv1D)


def _transposed(use: _Use) -> bool:
    """Whether the weight stands as [in, out]."""
    return isinstance(use.module, Conv1D)


def _gradients(use: _Use, caught: _Caught, block: Block, start: int, stop: int) -> torch.Tensor:
    """Return what one use of a parameter adds to rows of its gradient, [examples, stop - start, *block.shape[1:]]."""
    if _is_product(use):
        return _outer_products(caught, _transposed(use), slice(start, stop))
    if isinstance(use.module, torch.nn.Embedding):
        whole = caught.gradient.new_zeros(len(caught.lengths), stop - start, *block.shape[1:])
        here = (caught.input >= start) & (caught.input < stop)
        places = caught.examples()[here], caught.input[here] - start
        return whole.index_put_(places, caught.gradient[here], accumulate=True)
    values = caught.gradient
    if use.role == "weight":
        values = values * _normalised(use.module, caught.input)
    result = values.new_empty(len(caught.lengths), stop - start)
    for place, (first, last) in enumerate(caught.spans()):  # a quarter of what segment_reduce takes on a CPU
        torch.sum(values[first:last, start:stop], 0, out=result[place])
    return result


def _outer_products(caught: _Caught, transposed: bool, rows: slice) -> torch.Tensor:
    """Return rows of the sums over each example's tokens of g_t a_t' (or a_t g_t'), [examples, rows, in]."""
    left, right = (caught.input, caught.gradient) if transposed else (caught.gradient, caught.input)
    left = left[:, rows]
    result = left.new_empty(len(caught.lengths), left.shape[1], right.shape[1])
    for place, (start, end) in enumerate(caught.spans()):
        torch.mm(left[start:end].T, right[start:end], out=result[place])
    return result


# ------------------------------------------------------------------------------------------- products of tokens


def _cost_by_tokens(one: _Use, a: _Caught, two: _Use, b: _Caught, block: Block) -> float:
    """Return what `_add_products_by_tokens` takes, in multiplications."""
    if _both_embed(one, two):
        return float(_counts_of_same(a, b)[1].sum()) * (block.shape[1] + _OVERHEAD) * 4  # of rows that stand apart
    return len(a.gradient) * len(b.gradient) * (sum(block.shape) + _OVERHEAD)


def _both_embed(one: _Use, two: _Use) -> bool:
    return isinstance(one.module, torch.nn.Embedding) and isinstance(two.module, torch.nn.Embedding)


def _add_products_by_tokens(total: torch.Tensor, one: _Use, a: _Caught, two: _Use, b: _Caught) -> None:
    """Add to [examples, others] the products of what their tokens add to a matrix's gradient."""
    if _both_embed(one, two):
        _add_products_of_same(total, a, b)
        return
    for which, part in a.cut(max(1, _HELD // max(1, len(b.gradient)))):
        each = torch.segment_reduce(_token_products(one, part, two, b), "sum", lengths=part.lengths, axis=0)
        total[which] += torch.segment_reduce(each.T.contiguous(), "sum", lengths=b.lengths, axis=0).T


def _token_products(one: _Use, a: _Caught, two: _Use, b: _Caught) -> torch.Tensor:
    """Return the products of what each token adds to a matrix's gradient, [tokens, tokens]."""
    if isinstance(one.module, torch.nn.Embedding):  # and the head that shares it: a token's row, in what the head got
        return (a.gradient @ b.input.T) * b.gradient[:, a.input].T
    if isinstance(two.module, torch.nn.Embedding):
        return _token_products(two, b, one, a).T
    return (a.input @ b.input.T) * (a.gradient @ b.gradient.T)


def _counts_of_same(a: _Caught, b: _Caught) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Say where an embedding read the same: b's tokens in order, and of each of a's the first there and how many."""
    order = b.input.argsort(stable=True)
    ids = b.input[order]
    first = torch.searchsorted(ids, a.input)
    return first, torch.searchsorted(ids, a.input, right=True) - first, order


def _add_products_of_same(total: torch.Tensor, a: _Caught, b: _Caught) -> None:
    """Add the products of an embedding's gradients: only equal tokens have rows in common."""
    first, counts, order = _counts_of_same(a, b)
    owners, others = a.examples(), b.examples()
    most = _HELD // a.gradient.shape[1]
    for part in cut([(count, 0) for count in counts.tolist()], Budget(most, 0)):
        where = slice(part[0], part[-1] + 1)
        number = counts[where]
        mine = torch.repeat_interleave(torch.arange(where.start, where.stop, device=order.device), number)
        places = torch.arange(len(mine), device=order.device) - torch.repeat_interleave(
            number.cumsum(0) - number, number
        )
        theirs = order[first[mine] + places]
        products = (a.gradient[mine] * b.gradient[theirs]).sum(1)
        total.index_put_((owners[mine], others[theirs]), products.to(total.dtype), accumulate=True)


# ------------------------------------------------------------------------------------------------------ captures


def _normalised(module: torch.nn.Module, read_: torch.Tensor) -> torch.Tensor:
    """Return what a norm multiplies by its weight."""
    if isinstance(module, torch.nn.LayerNorm):
        return torch.nn.functional.layer_norm(read_, module.normalized_shape, eps=module.eps)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return torch.nn.functional.rms_norm(read_, (read_.shape[-1],), eps=eps)


def _catch(pack: Pack, layer: str, input: torch.Tensor, gradient: torch.Tensor, lengths: torch.Tensor) -> _Caught:
    """Check what came back to a layer, and leave out tokens to which nothing did: they add nothing to a weight.

    Such are, in the last layer, all whose logits nobody asked for.
    """
    high, low = gradient.amax(1), gradient.amin(1)  # of all checks on a CPU the fastest, and not a number if one is not
    _check_finite(pack, high - low, f"gradient at {layer} is", lengths)
    reached = (high != 0) | (low != 0)
    if not reached.all():
        input, gradient = input[reached], gradient[reached]
        lengths = torch.segment_reduce(reached.double(), "sum", lengths=lengths).long()
    return _Caught(input, gradient, lengths)


def _check_finite(pack: Pack, values: torch.Tensor, what: str, lengths: torch.Tensor | None = None) -> None:
    """Raise a UserError on the first value, of an example or of one of its tokens, that is not finite."""
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        place = int(bad[0]) if lengths is None else int((bad[0] >= lengths.cumsum(0)).sum())
        raise UserError(
            f"example {int(pack.rows[place])}: its {what} not finite; the model may have diverged, or the example is "
            "empty"
        )
