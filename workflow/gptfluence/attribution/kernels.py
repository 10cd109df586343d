"""LESS and TRAK: scores from projected gradients at a checkpoint of a run. And lengths of gradients, for cosines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gptfluence.attribution.hooks import ExampleGradients, formable, of_tests
from gptfluence.attribution.trackstar import Encoder
from gptfluence.attribution.vectors import cosines
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded

_CERTAIN = float(np.finfo(np.float32).eps)  # losses say nothing of a smaller 1 - p


class Moments(NamedTuple):
    """AdamW's state of one parameter.

    Attributes:
        first, second: [*shape]; zeros before the first step.
        step: how many there were.
    """

    first: torch.Tensor
    second: torch.Tensor
    step: float


def adam_moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Moments]:
    """Return an optimiser's state by the names of the model's parameters."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state = optimizer.state.get(parameter) or {}
            zeros = torch.zeros_like(parameter)
            step = float(state["step"]) if state else 0.0
            found[name] = Moments(state.get("exp_avg", zeros), state.get("exp_avg_sq", zeros), step)
    return found


def lengths(gradients: ExampleGradients, examples: Sequence[Encoded], budget: Budget) -> NDArray[np.float64]:
    """Return the length of each example's gradient, [examples]."""
    squares = np.zeros(len(examples))
    for rows, captured in formable(gradients, examples, budget):
        for block in gradients.blocks:
            squares[rows] += captured.block(block).flatten(1).square().sum(1).double().cpu().numpy()
    return np.sqrt(squares)


def less(
    gradients: ExampleGradients,
    train: Sequence[Encoded],
    tests: Sequence[Encoded],
    moments: Mapping[str, Moments],
    settings: Mapping[str, Any],
    optimizer: Mapping[str, float],
    budget: Budget,
) -> NDArray[np.float32]:
    """Return LESS's cosines at one checkpoint, [train, tests] (Xia et al., arXiv 2402.04333, section 4).

    Of a training example what is compared is AdamW's update, had the next step been made on it alone, with the moments
    that the optimiser has; of a test, its gradient. Both are projected. The sum over checkpoints, each times its rate,
    is the caller's.

    Args:
        gradients: of the model at the checkpoint.
        moments: of the run's optimiser there.
        settings: projection, seed.
        optimizer: beta1, beta2, epsilon.
    """
    beta1, beta2 = optimizer["beta1"], optimizer["beta2"]
    encoder = Encoder(gradients, settings, None)
    updates = np.empty((len(train), encoder.width), np.float32)
    for rows, captured in formable(gradients, train, budget):
        parts = []
        for block, projection in zip(gradients.blocks, encoder.projections, strict=True):
            own, gradient = moments[block.name], captured.block(block)
            # In place and fused: this is bound by how often a pack's gradients are read.
            of_mean, of_square = 1 - beta1 ** (own.step + 1), 1 - beta2 ** (own.step + 1)
            square = torch.addcmul(own.second * (beta2 / of_square), gradient, gradient, value=(1 - beta2) / of_square)
            mean = torch.add(own.first * (beta1 / of_mean), gradient, alpha=(1 - beta1) / of_mean)
            parts.append(projection.apply(mean.div_(square.sqrt_().add_(optimizer["epsilon"]))))
        updates[rows] = torch.cat(parts, 1).cpu().numpy()
    with of_tests():
        encodings = encoder.encode_all(tests, budget)
    return cosines(updates, encodings)


class Outputs(NamedTuple):
    """What TRAK takes of examples at one checkpoint.

    Attributes:
        features: [examples, width], projected gradients of the log-odds of the targets.
        wrong: [examples], 1 - p, how far each target is from certain.
    """

    features: NDArray[np.float64]
    wrong: NDArray[np.float64]


def log_odds(
    gradients: ExampleGradients, examples: Sequence[Encoded], settings: Mapping[str, Any], budget: Budget
) -> Outputs:
    """Return the projected gradients of log(p / (1 - p)), with p = exp(-n L) the probability of all n target tokens.

    The gradient is -n grad L / (1 - p) (Park et al., arXiv 2303.14186, section 3); 1 - p is taken for 1.2e-7 where it
    is less.

    Args:
        settings: projection, seed.
    """
    encoder = Encoder(gradients, settings, None)
    features, wrong = np.empty((len(examples), encoder.width)), np.empty(len(examples))
    for rows, captured in formable(gradients, examples, budget):
        tokens = np.array([examples[row].target for row in rows], float)
        wrong[rows] = np.maximum(-np.expm1(-tokens * captured.losses.double().cpu().numpy()), _CERTAIN)
        features[rows] = encoder.encode(captured).double().cpu().numpy() * -(tokens / wrong[rows])[:, None]
    return Outputs(features, wrong)


def trak(train: Outputs, tests: Outputs, damping: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return phi_z' (Phi' Phi + d)^-1 phi_i of each pair, [train, tests], and what it is to be weighted by, [train].

    Over checkpoints both are averaged, then multiplied (arXiv 2303.14186, eq. 17). As there are usually more numbers in
    a feature than examples, what is inverted is Phi Phi' + d, which is the same.

    Args:
        damping: d, as a share of the mean of the eigenvalues that can be other than zero.
    """
    gram = train.features @ train.features.T
    gram[np.diag_indices_from(gram)] += damping * np.trace(gram) / min(train.features.shape)
    return np.linalg.solve(gram, train.features @ tests.features.T), train.wrong
