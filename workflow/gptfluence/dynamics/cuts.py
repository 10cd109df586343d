"""How much is computed in one go. Torch is not imported here: the cost model cuts so too, and starts fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Logits for each token of the budget: bounds their memory where the vocabulary is large and targets are long.
_LOGITS_PER_TOKEN = 2048

# A generated text may be this many tokens longer than the longest reference; more could only lower its scores.
_SPARE_TOKENS = 8

Sizes = Sequence[tuple[float, float]]
"""Of each sequence the tokens that are read and those whose logits are computed."""


@dataclass(frozen=True)
class Budget:
    """The most that is read in one go, over all runs.

    Attributes:
        tokens: that are read.
        kept: of which logits are computed.
    """

    tokens: int
    kept: int

    @classmethod
    def of(cls, tokens: int, vocabulary: int) -> Budget:
        """Bound the logits as well: tokens of a large vocabulary have more of them."""
        return cls(tokens, tokens * _LOGITS_PER_TOKEN // vocabulary)


def cut(sizes: Sizes, budget: Budget) -> list[list[int]]:
    """Cut sequences, in their order, into groups within the budget.

    Returns:
        The sequences' indices; one that is beyond the budget by itself is a group of its own.
    """
    groups: list[list[int]] = []
    tokens = kept = 0.0
    for i, (own_tokens, own_kept) in enumerate(sizes):
        tokens, kept = tokens + own_tokens, kept + own_kept
        if not groups or tokens > budget.tokens or kept > budget.kept:
            groups.append([])
            tokens, kept = own_tokens, own_kept
        groups[-1].append(i)
    return groups


def cut_by_length(sizes: Sizes, budget: Budget) -> list[list[int]]:
    """Cut sequences into groups within the budget, the short ones first."""
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i][0], i))
    return [[order[i] for i in group] for group in cut([sizes[i] for i in order], budget)]


def cut_texts(texts: Sequence[tuple[float, int]], budget: int) -> list[list[int]]:
    """Cut texts into batches of like prompts, whatever task they are of: a decoding step costs little more for many.

    Args:
        texts: tokens of the prompt and most new tokens of each.
        budget: most tokens of a batch, see `held_tokens`.

    Returns:
        The texts' indices.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: (texts[i][0], i)):
        if batches and held_tokens([texts[j] for j in (*batches[-1], i)]) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def held_tokens(texts: Sequence[tuple[float, int]]) -> float:
    """Return the most tokens that the texts of a batch may hold, each filled up to the longest."""
    return len(texts) * (max(prompt for prompt, _ in texts) + max(limit for _, limit in texts))


def text_limit(longest_reference: float, most: int, context: int) -> int:
    """Return the most new tokens of a task's texts.

    Args:
        longest_reference: tokens of the task's longest reference.
        most: tokens; the setting.
        context: tokens; half of it is left to the prompt.
    """
    return min(most, context // 2, math.ceil(longest_reference) + _SPARE_TOKENS)


def bucket_length(length: float) -> int:
    """Return to what length a sequence is filled up for its attention: at most an eighth more, or 15 tokens."""
    whole = math.ceil(length)
    step = max(16, 1 << max(whole.bit_length() - 4, 0))
    return -(-whole // step) * step
