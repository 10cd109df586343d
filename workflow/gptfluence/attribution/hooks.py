"""Gradients of each example's own loss, from one forward and one backward pass over many examples.

A layer's gradient for one example is made of what the layer read and of what came back to its output: of a linear one
the sum over the example's tokens of g_t a_t'. Both are caught by hooks, and no gradient of any weight is computed on
the way back. Examples stand one behind the other in a stream (see `dynamics.packing`), so each gives what it would give
by itself, but for rounding, and a layer's gradients are formed when they are asked for, one parameter at a time: what
is held are the activations of a pack and the gradients of one parameter. Tokens to which nothing comes back, most of
the last layer's where targets are short, are left out.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from gptfluence.attribution.projection import Projection
from gptfluence.dynamics.cuts import Budget, cut, cut_by_length
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import Pack, Stream, pack_by_length, pack_examples, read, token_losses
from gptfluence.errors import UserError

_HELD = 1 << 23  # numbers that are formed at once where gradients are multiplied, 32 MiB
_FORMED = 1 << 24  # numbers of one parameter's gradients that are formed at once where all are needed, 64 MiB
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
            UserError: a loss or a gradient is not finite (says of which example), or a layer is not read token by token
                and just once, so that its gradients would not be what is caught (names it).
        """
        stream = Stream.of([pack], self.device)
        lengths = torch.from_numpy(pack.lengths).to(self.device)
        inputs: dict[str, torch.Tensor] = {}
        outputs: dict[str, torch.Tensor] = {}
        with self._hooked(inputs, outputs):
            losses = token_losses(lambda s: read(self._model, s), stream)
            means = torch.segment_reduce(losses, "mean", lengths=stream.kept)
            self._check_used(outputs, {len(stream.labels), len(pack.tokens)})
            back = torch.autograd.grad(means.sum(), list(outputs.values()), allow_unused=True)
        _check_finite(pack, means, "loss is")
        caught = {}
        for (layer, output), gradient in zip(outputs.items(), back, strict=True):
            rows = output.shape[1]
            gradient = torch.zeros_like(output) if gradient is None else gradient
            own = stream.kept if rows == len(stream.labels) else lengths
            caught[layer] = _catch(pack, layer, inputs[layer].detach()[0], gradient.detach()[0], own)
        return Captured(means.detach(), self._uses, caught)

    def _check_used(self, outputs: dict[str, torch.Tensor], tokens: set[int]) -> None:
        if unused := self._layers.keys() - outputs.keys():
            raise UserError(f"{min(unused)}: the model does not use this layer, so it has no gradients; freeze it")
        for layer, output in outputs.items():
            if output.ndim != 3 or output.shape[1] not in tokens:
                raise UserError(
                    f"{layer}: does not give one vector a token, which is not supported; set attribution.parameters to "
                    "linear"
                )

    @contextlib.contextmanager
    def _hooked(self, inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> Iterator[None]:
        """Have the layers' inputs and outputs noted, and gradients flow through activations alone."""
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        was_training = self._model.training
        handles = [m.register_forward_hook(lambda _, __, out: out.detach().requires_grad_()) for m in self._embeddings]

        def note(layer: str, out: torch.Tensor, read_: torch.Tensor) -> None:
            if layer in outputs:
                raise UserError(f"{layer}: the model uses this layer more than once, which is not supported")
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

    def block(self, block: Block) -> torch.Tensor:
        """Return the gradient of each example's mean loss, [examples, *block.shape]."""
        return self._rows(block, 0, self._empty(block, len(self.losses), block.shape[0]))

    def _empty(self, block: Block, examples: int, rows: int) -> torch.Tensor:
        """Return room for rows of gradients, [examples, rows, *block.shape[1:]]."""
        like = self._caught[self._uses[block.name][0].layer].gradient
        return like.new_empty(examples, rows, *block.shape[1:])

    def _rows(self, block: Block, start: int, out: torch.Tensor) -> torch.Tensor:
        """Form rows of the gradients, from one on: [examples, rows, *block.shape[1:]]."""
        first, *others = self._uses[block.name]
        _gradients(first, self._caught[first.layer], start, out)
        for other in others:
            out += _gradients(other, self._caught[other.layer], start, torch.empty_like(out))
        return out

    def projected(self, block: Block, projection: Projection) -> torch.Tensor:
        """Return the projected gradients, [examples, projection.width], without the whole ones of a matrix."""
        if projection.right is None:
            return projection.apply(self.block(block))
        total: torch.Tensor | None = None
        for use in self._uses[block.name]:
            caught = self._caught[use.layer]
            right = _factors(use, caught)[1] @ projection.right.T
            if isinstance(use.module, torch.nn.Embedding):
                left = projection.left.T[caught.input]
            else:
                left = _factors(use, caught)[0] @ projection.left.T
            out = right.new_empty(len(self.losses), left.shape[1], right.shape[1])
            part = _outer_products(left, right, caught, out).flatten(1)
            total = part if total is None else total + part
        assert total is not None
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


def formable(
    gradients: ExampleGradients, examples: Sequence[Encoded], budget: Budget
) -> Iterator[tuple[np.ndarray, Captured]]:
    """Read examples as `gradients_of` does, but so few at once that their gradients of any parameter can be formed.

    These take 64 MiB, or what one example's take.

    Yields:
        Which examples a pack holds, [examples in it], and their gradients.
    """
    most = max(1, _FORMED // max(block.size for block in gradients.blocks))
    for group in cut_by_length([(len(example.tokens), example.target) for example in examples], budget):
        for start in range(0, len(group), most):
            part = group[start : start + most]
            yield np.array(part), gradients.capture(pack_examples([examples[i] for i in part], part))


@contextlib.contextmanager
def of_tests() -> Iterator[None]:
    """Have errors that number an example say that it is a test: others are of training examples."""
    try:
        yield
    except UserError as error:
        raise UserError(f"test {error}") from error


def gradient_products(
    gradients: ExampleGradients,
    train: Sequence[Encoded],
    test: Sequence[Encoded],
    budget: Budget,
    scaling: Mapping[str, torch.Tensor] | None = None,
) -> np.ndarray:
    """Return <grad L_i, grad L_z> of each training and test example, [train, test] of float32.

    Exact, and a sum over parameters. Either the gradients of a parameter are formed, some of its rows at a time, and
    multiplied, or, where that is cheaper (large vocabularies, few tokens), the products of tokens are added up. What is
    held are the activations of all tests and of up to twice as many tokens of training examples, and 32 MiB of
    gradients: memory does not grow with the training examples but for the result.

    Args:
        scaling: of each parameter, what the training gradients' entries are multiplied by first (an optimiser's
            preconditioner), [*shape]; they are formed then.
    """
    if not len(train) or not len(test):
        return np.zeros((len(train), len(test)), np.float32)
    with of_tests():
        tests = list(gradients_of(gradients, test, budget))
    columns, others = np.concatenate([rows for rows, _ in tests]), [captured for _, captured in tests]
    result = np.zeros((len(train), len(test)), np.float32)
    # Each group of packs has the tests' gradients formed anew; as it is twice as large, that costs half of its own.
    packs = pack_by_length(train, budget)
    most = max(budget.tokens, 2 * sum(len(example.tokens) for example in test))
    for group in cut([(len(pack.tokens), 0) for pack in packs], Budget(most, 0)):
        rows = np.concatenate([packs[i].rows for i in group])
        # Not named: the group before must be gone when the next one is read.
        found = _products([gradients.capture(packs[i]) for i in group], others, gradients.blocks, scaling)
        result[np.ix_(rows, columns)] = found.cpu().numpy()
    return result


def _products(
    mine: Sequence[Captured],
    others: Sequence[Captured],
    blocks: Sequence[Block],
    scaling: Mapping[str, torch.Tensor] | None,
) -> torch.Tensor:
    """See `gradient_products`; of several packs on each side, whose examples stand one behind the other."""
    rows, columns = _spans(mine), _spans(others)
    total = mine[0].losses.new_zeros(rows[-1].stop, columns[-1].stop)
    for block in blocks:
        pairs = [
            (total[row, column], one, a._caught[one.layer], two, b._caught[two.layer])
            for row, a in zip(rows, mine, strict=True)
            for column, b in zip(columns, others, strict=True)
            for one in a._uses[block.name]
            for two in b._uses[block.name]
        ]
        tokens = sum(
            len(part._caught[use.layer].gradient) for part in (*mine, *others) for use in part._uses[block.name]
        )
        formed = (total.numel() + tokens) * block.size
        factors = scaling[block.name] if scaling is not None else None
        if (
            factors is None
            and len(block.shape) == 2
            and sum(_cost_by_tokens(*pair[1:], block) for pair in pairs) < formed
        ):
            for pair in pairs:
                _add_products_by_tokens(*pair)
        else:
            _add_products_of_formed(total, mine, rows, others, columns, block, factors)
    return total


def _spans(parts: Sequence[Captured]) -> list[slice]:
    """Return where the examples of each pack stand."""
    ends = np.cumsum([len(part.losses) for part in parts]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _add_products_of_formed(
    total: torch.Tensor,
    mine: Sequence[Captured],
    rows: Sequence[slice],
    others: Sequence[Captured],
    columns: Sequence[slice],
    block: Block,
    factors: torch.Tensor | None,
) -> None:
    """Add the products of one parameter's gradients, formed as many of its rows at a time as are held at once."""
    most = max(1, _HELD // (sum(total.shape) * (block.size // block.shape[0])))
    for start, stop in itertools.pairwise([*range(0, block.shape[0], most), block.shape[0]]):
        sides = []
        for parts, spans in ((mine, rows), (others, columns)):
            side = parts[0]._empty(block, spans[-1].stop, stop - start)
            for part, span in zip(parts, spans, strict=True):
                part._rows(block, start, side[span])
            sides.append(side)
        if factors is not None:
            sides[0] *= factors[start:stop]
        total += sides[0].flatten(1) @ sides[1].flatten(1).T


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


def _reads_rows(use: _Use) -> bool:
    """Whether the rows of the weight belong to what is read: it stands as [in, out]."""
    return isinstance(use.module, Conv1D | torch.nn.Embedding)


def _gradients(use: _Use, caught: _Caught, start: int, out: torch.Tensor) -> torch.Tensor:
    """Form what one use of a parameter adds to rows of its gradient, from one on: [examples, rows, ...]."""
    stop = start + out.shape[1]
    if isinstance(use.module, torch.nn.Embedding):
        here = (caught.input >= start) & (caught.input < stop)
        places = caught.examples()[here], caught.input[here] - start
        return out.zero_().index_put_(places, caught.gradient[here], accumulate=True)
    if _is_product(use):
        left, right = _factors(use, caught)
        return _outer_products(left[:, start:stop], right, caught, out)
    values = caught.gradient[:, start:stop]
    if use.role == "weight":
        values = values * _normalised(use.module, caught.input)[:, start:stop]
    for place, (first, last) in enumerate(caught.spans()):  # on a CPU a quarter of what segment_reduce takes
        torch.sum(values[first:last], 0, out=out[place])
    return out


def _factors(use: _Use, caught: _Caught) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a token adds to a matrix's gradient as factors: of its rows and of its columns.

    Of an embedding the first one stands for the row of the token read, and is 1 there.
    """
    return (caught.input, caught.gradient) if _reads_rows(use) else (caught.gradient, caught.input)


def _outer_products(left: torch.Tensor, right: torch.Tensor, caught: _Caught, out: torch.Tensor) -> torch.Tensor:
    """Form the sums over each example's tokens of the products of two factors, [examples, left, right]."""
    for place, (first, last) in enumerate(caught.spans()):
        torch.mm(left[first:last].T, right[first:last], out=out[place])
    return out


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
