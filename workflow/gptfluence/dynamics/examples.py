"""From text to tokens: a prompt, then a target that ends the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What is used of the library's tokenizers; none of its code is imported for it."""

    eos_token_id: int

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """Return ``input_ids`` of a text, under that key."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of tokens."""
        ...


@dataclass(frozen=True)
class Encoded:
    """One example in tokens: the prompt, then a space and the target, then the end of the text.

    Attributes:
        tokens: all token ids, cut to the context from the left.
        target: how many of the last tokens are the target's (its end-of-text token included).
        truncated: whether something was cut.
    """

    tokens: tuple[int, ...]
    target: int
    truncated: bool

    @property
    def prompt(self) -> tuple[int, ...]:
        """The prompt's token ids."""
        return self.tokens[: len(self.tokens) - self.target]


def cut(prompt: Sequence[int], target: Sequence[int], end: int, context: int) -> Encoded:
    """Join an example's tokens; what does not fit is cut: first the prompt's head, then the target's tail.

    Args:
        end: id of the end-of-text token, which follows the target.
        context: most tokens.
    """
    room = context - 2  # at least one token of the prompt, and the end of the text
    truncated = len(prompt) + len(target) + 1 > context
    tail = (*target[:room], end)
    return Encoded((*prompt[-(context - len(tail)) :], *tail), len(tail), truncated)


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return a prompt's token ids, open at the end: some tokenizers close every text."""
    tokens = tokenizer(prompt)["input_ids"]
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens


def encode_target(tokenizer: Tokenizer, target: str) -> list[int]:
    """Return the token ids of a target behind its prompt, a space between them."""
    return tokenizer(" " + target, add_special_tokens=False)["input_ids"]
