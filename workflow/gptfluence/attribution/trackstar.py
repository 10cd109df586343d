"""TrackStar (Chang et al., arXiv 2410.17413): gradients corrected, projected, whitened and of unit length.

G(z) = R^(-1/2) P (grad L_z / sqrt(V)), divided by its length; a score is an inner product of two of them. V are AdamW's
second moments, P projects each parameter from both sides, and R = lambda R_eval + (1 - lambda) R_train mixes the second
moments of evaluation and training gradients, one matrix for the attention and one for the rest of each layer. So what
all evaluation examples share (their task, their form) counts little, and what is peculiar to one counts.

What the paper leaves open, or has for other sizes, is here as follows. V has a floor, a hundredth of a parameter's
mean: rows of the embedding that were never touched would divide by zero. R is damped by a share of its mean eigenvalue.
lambda makes the two sides' eigenvalues equal at rank 1000 of 65,536, scaled to the number of eigenvalues that are not
zero: with fewer examples than dimensions there are fewer of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gptfluence.attribution.hooks import Block, Captured, ExampleGradients, formable, of_tests
from gptfluence.attribution.projection import Projection
from gptfluence.attribution.vectors import unit_length
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded

Moments = Mapping[str, torch.Tensor]
"""Second moments of gradients, by names of parameters."""

_FLOOR = 0.01  # of V, a share of its mean over the parameter
_RANK = 1000 / 65_536  # at which the mix balances the eigenvalues, as a share of those that are not zero
_ZERO = 1e-6  # of a matrix's largest eigenvalue: what is below is rounding


class Encoder:
    """Turns gradients into projected ones, block by block.

    Args:
        gradients: of the model.
        settings: projection (rows and columns that are left of a parameter) and seed.
        moments: V; None: gradients are not corrected.

    Attributes:
        projections: of each of the gradients' blocks.
        groups: of each number of an encoding, which of R's blocks it belongs to; [width].
        width: numbers of an encoding.
    """

    def __init__(self, gradients: ExampleGradients, settings: Mapping[str, Any], moments: Moments | None) -> None:
        self._gradients = gradients
        device = gradients.device
        self.projections = [
            Projection(block.shape, settings["projection"], settings["seed"], block.name, device)
            for block in gradients.blocks
        ]
        self._divisors = None if moments is None else divisors(gradients.blocks, moments)
        names = [group_of(block) for block in gradients.blocks]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        self.groups = np.repeat([numbers[name] for name in names], [p.width for p in self.projections])
        self.width = len(self.groups)

    def encode(self, captured: Captured) -> torch.Tensor:
        """Return the encodings of a pack's examples, [examples, width]."""
        parts = []
        for block, projection in zip(self._gradients.blocks, self.projections, strict=True):
            if self._divisors is None:
                parts.append(captured.projected(block, projection))
            else:  # what differs by element cannot pass through the factors
                parts.append(projection.apply(captured.block(block) / self._divisors[block.name]))
        return torch.cat(parts, 1)

    def encode_all(self, examples: Sequence[Encoded], budget: Budget) -> NDArray[np.float32]:
        """Return the encodings of many examples, [examples, width], one pack after the other."""
        result = np.empty((len(examples), self.width), np.float32)
        for rows, captured in formable(self._gradients, examples, budget):
            result[rows] = self.encode(captured).cpu().numpy()
        return result


def divisors(blocks: Sequence[Block], moments: Moments) -> dict[str, torch.Tensor]:
    """Return sqrt(V) of each block, with V's floor."""
    found = {}
    for block in blocks:
        moment = moments[block.name]
        found[block.name] = moment.clamp(min=_FLOOR * moment.mean().item() or 1.0).sqrt()
    return found


def group_of(block: Block) -> str:
    """Return which of R's blocks a parameter is in: its layer's attention, the rest of its layer, or its own."""
    layer = re.search(r"\.(\d+)\.", block.name)
    if layer is None:
        return block.name.rpartition(".")[0] or block.name
    attention = re.search(r"\battn\b|attention(?!_)|self_attn", block.name) is not None
    return f"{layer[1]} {'attention' if attention else 'mlp'}"


def mean_squares(gradients: ExampleGradients, examples: Sequence[Encoded], budget: Budget) -> dict[str, torch.Tensor]:
    """Return the mean squares of the examples' gradients: second moments where no optimiser's are at hand."""
    total: dict[str, torch.Tensor] = {}
    for _, captured in formable(gradients, examples, budget):
        for block in gradients.blocks:
            squares = captured.block(block).square().sum(0)
            total[block.name] = total[block.name].add_(squares) if block.name in total else squares
    return {name: value / len(examples) for name, value in total.items()}


# ------------------------------------------------------------------------------------------------------ whitening


@dataclass(frozen=True)
class Whitening:
    """R^(-1/2), block by block.

    Attributes:
        places: of each block, the numbers of an encoding that it works on.
        roots: of each block, [size, size].
    """

    places: tuple[NDArray[np.int64], ...]
    roots: tuple[NDArray[np.float64], ...]

    def apply(self, encodings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return R^(-1/2) times each encoding, [examples, width]."""
        result = np.empty(encodings.shape, np.float32)
        for places, root in zip(self.places, self.roots, strict=True):
            result[:, places] = encodings[:, places] @ root
        return result


def second_moments(encodings: NDArray[np.floating], groups: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Return the mean of G G' over examples, of each block of R."""
    parts = [encodings[:, groups == group].astype(float) for group in range(groups.max() + 1)]
    return [part.T @ part / len(part) for part in parts]


def mixed(train: Sequence[NDArray[np.float64]], evaluation: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return R, block by block: lambda R_eval + (1 - lambda) R_train, see `balance`."""
    share = balance(train, evaluation)
    return [share * other + (1 - share) * own for own, other in zip(train, evaluation, strict=True)]


def balance(train: Sequence[NDArray[np.float64]], evaluation: Sequence[NDArray[np.float64]]) -> float:
    """Return lambda: with it both parts of the mix have the same eigenvalue at a rank (appendix A.1.3).

    Eigenvalues of all blocks that are not zero are put together and sorted; the side with fewer sets the rank.

    Args:
        train, evaluation: second moments, block by block; or other matrices of the same eigenvalues.
    """
    sides = [np.sort(np.concatenate([_eigenvalues(m) for m in side]))[::-1] for side in (train, evaluation)]
    shortest = min(len(values) for values in sides)
    if not shortest:  # gradients of zeros have no moments to mix
        return 0.0
    rank = max(1, round(_RANK * shortest))
    of_train, of_evaluation = (values[rank - 1] for values in sides)
    return float(of_train / (of_train + of_evaluation))


def _eigenvalues(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a matrix's eigenvalues that are not zero."""
    values = np.linalg.eigvalsh(matrix)
    return values[values > _ZERO * values[-1]]


def whiten(matrices: Sequence[NDArray[np.float64]], groups: NDArray[np.int64], damping: float) -> Whitening:
    """Return R^(-1/2) of blocks of R; `damping`: a share of each block's mean eigenvalue."""
    roots = []
    for matrix in matrices:
        values, vectors = np.linalg.eigh(matrix)
        damped = np.maximum(values, 0) + damping * (values.mean() or 1.0)
        roots.append((vectors / np.sqrt(damped)) @ vectors.T)
    places = tuple(np.flatnonzero(groups == group) for group in range(len(matrices)))
    return Whitening(places, tuple(roots))


def scores(
    train: NDArray[np.floating],
    tests: NDArray[np.floating],
    groups: NDArray[np.int64],
    damping: float,
    *,
    hessian: bool = True,
    mix: bool = True,
    norm: bool = True,
) -> NDArray[np.float32]:
    """Return inner products of encodings, [train, tests].

    Args:
        train, tests: encodings, [examples, width].
        groups: [width]; of `Encoder`.
        hessian: whiten by R.
        mix: R has the tests' second moments as well.
        norm: make them of unit length.
    """
    if hessian:
        matrices = second_moments(train, groups)
        if mix:
            matrices = mixed(matrices, second_moments(tests, groups))
        whitening = whiten(matrices, groups, damping)
        train, tests = whitening.apply(train), whitening.apply(tests)
    if norm:
        train, tests = unit_length(train), unit_length(tests)
    return (train @ tests.T).astype(np.float32)


# --------------------------------------------------------------------------------------------- without projection


def whole_scores(
    gradients: ExampleGradients,
    train: Sequence[Encoded],
    tests: Sequence[Encoded],
    moments: Moments,
    damping: float,
    budget: Budget,
) -> NDArray[np.float32]:
    """Return TrackStar's scores of whole gradients, [train, tests].

    R has as many rows as the model has parameters, but no higher rank than there are examples: all that is needed of it
    follows from the examples' inner products in each of its blocks. They are held, and the activations of all examples.
    """
    products = gram_matrices(gradients, train, tests, moments, budget)
    count = len(train)
    sizes = [sum(b.size for b in gradients.blocks if group_of(b) == name) for name in products]
    sides = [[matrix[:count, :count] / count for matrix in products.values()],
             [matrix[count:, count:] / len(tests) for matrix in products.values()]]  # fmt: skip
    share = balance(*sides)
    weights = np.concatenate([np.full(count, (1 - share) / count), np.full(len(tests), share / len(tests))])
    total = np.zeros((count + len(tests),) * 2)
    for matrix, size in zip(products.values(), sizes, strict=True):
        # With z_i = sqrt(w_i) g_i as rows of Z and Z Z' = U S U': g' (Z' Z + d I)^-1 g, of all g.
        root = np.sqrt(weights)
        values, vectors = np.linalg.eigh(root[:, None] * matrix * root)
        kept = values > 1e-12 * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        if not len(values):  # a block without gradients
            continue
        d = damping * values.sum() / size
        inside = (matrix * root) @ vectors / np.sqrt(values)  # of each g, along R's eigenvectors
        total += (matrix - inside @ inside.T) / d + (inside / (values + d)) @ inside.T
    norms = np.sqrt(np.diag(total))
    lengths = np.outer(norms[:count], norms[count:])
    # Where a length is not a number, neither is the score: the caller says of which.
    return np.divide(total[:count, count:], lengths, out=np.zeros(lengths.shape), where=lengths != 0).astype(np.float32)


def gram_matrices(
    gradients: ExampleGradients, train: Sequence[Encoded], tests: Sequence[Encoded], moments: Moments, budget: Budget
) -> dict[str, NDArray[np.float64]]:
    """Return the inner products of all corrected gradients, [train + tests, train + tests], of each of R's blocks.

    In double precision: what R's inverse makes most of is where gradients hardly differ, and that would be rounding.
    """
    divided = divisors(gradients.blocks, moments)
    names = dict.fromkeys(group_of(block) for block in gradients.blocks)
    result = {name: np.zeros((len(train) + len(tests),) * 2) for name in names}
    packs = list(formable(gradients, train, budget))
    with of_tests():
        packs += [(len(train) + rows, captured) for rows, captured in formable(gradients, tests, budget)]
    for block in gradients.blocks:
        for number, (rows, captured) in enumerate(packs):
            own = (captured.block(block) / divided[block.name]).flatten(1).double()
            for columns, other in packs[: number + 1]:
                theirs = own if other is captured else (other.block(block) / divided[block.name]).flatten(1).double()
                product = (own @ theirs.T).cpu().numpy()
                result[group_of(block)][np.ix_(rows, columns)] += product
                if other is not captured:
                    result[group_of(block)][np.ix_(columns, rows)] += product.T
    return result
