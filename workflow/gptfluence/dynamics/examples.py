"""From text to tokens: a prompt, then a target that ends the text."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


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


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, context: int) -> Encoded:
    """Tokenise an example; what does not fit the context is cut: first the prompt's head, then the target's tail."""
    head = encode_prompt(tokenizer, prompt)
    tail = tokenizer(" " + target, add_special_tokens=False)["input_ids"]
    room = context - 2  # at least one token of the prompt, and the end of the text
    truncated = len(head) + len(tail) + 1 > context
    tail = [*tail[:room], tokenizer.eos_token_id]
    head = head[-(context - len(tail)) :]
    return Encoded((*head, *tail), len(tail), truncated)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return a prompt's token ids, open at the end: some tokenizers close every text."""
    tokens = tokenizer(prompt)["input_ids"]
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens
