from __future__ import annotations

import copy
from pathlib import Path

import pytest
from encoded import encode
from gptfluence.dynamics.examples import encode_prompt
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path):
    return AutoTokenizer.from_pretrained(model_folder)


def test_example_in_tokens(tokenizer) -> None:
    example = encode(tokenizer, "the river", "bread.", 96)
    assert tokenizer.decode(example.tokens) == "the river bread.<|endoftext|>"
    assert tokenizer.decode(example.tokens[-example.target :]) == " bread.<|endoftext|>"
    assert tokenizer.decode(example.prompt) == "the river"
    assert not example.truncated


@pytest.mark.parametrize("context", [8, 12, 20])
def test_too_long_example_keeps_the_target_and_the_prompts_end(tokenizer, context: int) -> None:
    example = encode(tokenizer, "the old small blue river town near Köln " * 5, "bread.", context)
    assert example.truncated and len(example.tokens) == context
    assert tokenizer.decode(example.tokens).endswith("bread.<|endoftext|>")
    long_target = encode(tokenizer, "the river", "bread and boats of the old mayor " * 9, context)
    assert long_target.truncated and len(long_target.tokens) <= context and long_target.prompt


def test_tokens_are_cut_from_both_sides_of_the_seam(tokenizer) -> None:
    """First the prompt's head goes, then the target's tail; the end of the text and one token of the prompt stay."""
    prompt = tokenizer("the old river town")["input_ids"]
    target = tokenizer(" bread and boats.")["input_ids"]
    end = tokenizer.eos_token_id
    whole = (*prompt, *target, end)
    for context in range(3, len(whole) + 2):
        example = encode(tokenizer, "the old river town", "bread and boats.", context)
        room = min(len(target), context - 2)
        expected = (*prompt, *target[:room], end)[-context:]
        assert (example.tokens, example.target) == (expected, room + 1)
        assert example.truncated == (context < len(whole))


def test_tokenizer_that_closes_every_text_changes_nothing(tokenizer) -> None:
    closing = copy.deepcopy(tokenizer)
    special = ("<|endoftext|>", tokenizer.eos_token_id)
    closing.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {special[0]}", special_tokens=[special])
    assert closing("the river")["input_ids"][-1] == tokenizer.eos_token_id
    for prompt in ("the river", ""):
        assert encode_prompt(closing, prompt) == encode_prompt(tokenizer, prompt) == tokenizer(prompt)["input_ids"]
        assert encode(closing, prompt, "bread.", 96) == encode(tokenizer, prompt, "bread.", 96)
