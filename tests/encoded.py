"""Examples in tokens, straight from their texts, or random ones."""

from __future__ import annotations

import random

from gptfluence.dynamics.examples import Encoded, Tokenizer, cut, encode_prompt, encode_target


def encode(tokenizer: Tokenizer, prompt: str, target: str, context: int) -> Encoded:
    """Tokenise one example."""
    return cut(encode_prompt(tokenizer, prompt), encode_target(tokenizer, target), tokenizer.eos_token_id, context)


def random_examples(count: int, seed: int, vocabulary: int, target: int = 4) -> list[Encoded]:
    """Make short examples: prompts of 3 to 20 tokens, targets of one to so many."""
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        length, own = generator.randint(3, 20), generator.randint(1, target)
        found.append(Encoded(tuple(generator.randrange(vocabulary) for _ in range(length + own)), own, False))
    return found
