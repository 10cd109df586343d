"""Examples in tokens, straight from their texts."""

from __future__ import annotations

from gptfluence.dynamics.examples import Encoded, Tokenizer, cut, encode_prompt, encode_target


def encode(tokenizer: Tokenizer, prompt: str, target: str, context: int) -> Encoded:
    """Tokenise one example."""
    return cut(encode_prompt(tokenizer, prompt), encode_target(tokenizer, target), tokenizer.eos_token_id, context)
