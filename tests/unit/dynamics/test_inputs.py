from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from encoded import encode
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.inputs import Inputs
from gptfluence.io import read_parquet, write_parquet
from transformers import AutoTokenizer, PreTrainedTokenizerBase

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model_folder)


def make_inputs(spec: dict[str, Any], tokenizer: PreTrainedTokenizerBase, context: int = 96) -> Inputs:
    budget = Budget.of(spec["evaluation_tokens"], len(tokenizer))
    return Inputs(spec, lambda: tokenizer, context, budget, CPU)


def rows_of(spec: dict[str, Any], task: str, part: str, form: str = "instruction") -> list[dict[str, Any]]:
    rows = read_parquet(spec["tasks"][task]).to_pylist()
    return [row for row in rows if (row["part"], row["format"]) == (part, form)]


def changed(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The spec, with all runs changed."""
    return spec | {"runs": [run | changes for run in spec["runs"]]}


@pytest.mark.parametrize(("scenario", "form"), [("instruction_tuning", "instruction"), ("fine_tuning", "plain")])
def test_examples_are_those_that_runs_draw(
    gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase, scenario: str, form: str
) -> None:
    path = gang["tasks"]["text"]
    marked = gang | {"tasks": gang["tasks"] | {"text": mark_plain_prompts(path)}}
    inputs = make_inputs(changed(marked, scenario=scenario), tokenizer)
    assert inputs.train.keys() == {(task, example) for task in ("yesno", "text") for example in range(12)}
    for task in ("yesno", "text"):
        for row in rows_of(marked, task, "pool", form):
            assert inputs.train[task, row["example"]] == encode(tokenizer, row["prompt"], row["target"], 96)


def mark_plain_prompts(path: str) -> str:
    """In the conftest's files, both forms of an example are the same."""
    rows = read_parquet(path).to_pylist()
    marked = [row | {"prompt": row["prompt"] + " the town" * (row["format"] == "plain")} for row in rows]
    write_parquet("data/tasks/marked.parquet", pa.Table.from_pylist(marked), {"task": "text"})
    return "data/tasks/marked.parquet"


def test_examples_of_each_pool_that_some_run_draws_from(
    gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    first, second = gang["runs"]
    inputs = make_inputs(gang | {"runs": [first, second | {"pool": "unseen_pool"}]}, tokenizer)
    assert {example for _, example in inputs.train} == set(range(24))
    inputs = make_inputs(changed(gang, pool="unseen_pool"), tokenizer)
    assert {example for _, example in inputs.train} == set(range(12, 24))


@pytest.mark.parametrize("tasks", [["yesno", "text"], ["text", "yesno"], ["text"]], ids=" ".join)
def test_tests_in_the_order_of_the_run(
    gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase, tasks: list[str]
) -> None:
    inputs = make_inputs(changed(gang, test_tasks=tasks), tokenizer)
    assert inputs.tests == [(task, example) for task in tasks for example in range(5)]
    expected = {
        row: encode(tokenizer, test["prompt"], test["target"], 96)
        for row, test in enumerate(test for task in tasks for test in rows_of(gang, task, "test"))
    }
    for pack in inputs.packs:
        assert len(pack.tokens) <= gang["evaluation_tokens"]
        tokens, labels = iter(pack.tokens.tolist()), iter(pack.labels.tolist())
        for row, length, kept in zip(pack.rows.tolist(), pack.lengths, pack.kept, strict=True):
            example = expected.pop(row)
            assert tuple(next(tokens) for _ in range(length)) == example.tokens[:-1]
            assert tuple(next(labels) for _ in range(kept)) == example.tokens[-example.target :]
    assert not expected
    assert [(text.row, text.task, text.example) for text in inputs.texts] == [
        (row, task, example) for row, (task, example) in enumerate(inputs.tests) if task == "text"
    ]


def test_texts_are_the_tests_that_are_scored(gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = make_inputs(gang, tokenizer)
    tests = rows_of(gang, "text", "test")
    references = [reference for test in tests for reference in test["references"]]
    limit = min(12, max(len(tokenizer(reference)["input_ids"]) for reference in references) + 8)
    for text, test in zip(inputs.texts, tests, strict=True):
        assert text.references == tuple(test["references"]) and text.metrics == ("loss", "bleu", "rouge_l")
        assert list(text.prompt) == tokenizer(test["prompt"])["input_ids"]
        assert text.limit == limit
    assert make_inputs(gang | {"metrics": {"yesno": ["loss"], "text": ["loss"]}}, tokenizer).texts == []
    for metric in ("bleu", "rouge_l"):
        spec = gang | {"metrics": {"yesno": ["loss", metric], "text": ["loss"]}}
        assert [text.row for text in make_inputs(spec, tokenizer).texts] == list(range(5))


@pytest.mark.parametrize(("most", "context", "limit"), [(3, 96, 3), (500, 10, 5), (500, 11, 5)])
def test_most_new_tokens(
    gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase, most: int, context: int, limit: int
) -> None:
    """As many as the setting says, but half of the context stays the prompt's end."""
    spec = gang | {"generation": gang["generation"] | {"max_new_tokens": most}}
    inputs = make_inputs(spec, tokenizer, context)
    for text, test in zip(inputs.texts, rows_of(gang, "text", "test"), strict=True):
        assert text.limit == limit
        assert list(text.prompt) == tokenizer(test["prompt"])["input_ids"][-(context - limit) :]


def test_no_more_new_tokens_than_the_longest_reference_needs(
    gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    spec = gang | {"generation": gang["generation"] | {"max_new_tokens": 500}}
    longest = max(
        len(tokenizer(reference)["input_ids"])
        for test in rows_of(gang, "text", "test")
        for reference in test["references"]
    )
    assert {text.limit for text in make_inputs(spec, tokenizer).texts} == {longest + 8}


def test_truncated_examples_are_counted_and_told(
    gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    assert make_inputs(gang, tokenizer).truncated_of("pool") == 0 and not caplog.records
    with caplog.at_level(logging.WARNING):
        inputs = make_inputs(gang, tokenizer, 16)
    rows = [row for task in ("yesno", "text") for part in ("pool", "test") for row in rows_of(gang, task, part)]
    expected = sum(encode(tokenizer, row["prompt"], row["target"], 16).truncated for row in rows)
    assert 0 < inputs.truncated_of("pool") == expected < len(rows)
    assert f"group: {expected} of {len(rows)} examples are longer than the context of 16 tokens" in caplog.text


def test_packs_for_training_and_for_several_runs(gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = make_inputs(gang, tokenizer)
    keys = [("text", 3), ("yesno", 0), ("text", 3)]
    pack = inputs.train_pack(keys)
    assert pack.tokens.tolist() == [token for key in keys for token in inputs.train[key].tokens[:-1]]
    assert pack.labels.tolist() == [
        token for key in keys for token in inputs.train[key].tokens[-inputs.train[key].target :]
    ]
    assert len(inputs.packs) > 1
    for number, tests in enumerate(inputs.packs):
        stream = inputs.test_stream(number, 3)
        assert stream.tokens[0].tolist() == tests.tokens.tolist() * 3
        assert stream.labels.tolist() == tests.labels.tolist() * 3
        assert stream.tokens_of == (len(tests.tokens),) * 3
        assert inputs.test_stream(number, 3) is stream and inputs.test_stream(number, 2) is not stream


def test_decoded_text_has_no_marks_and_no_margins(gang: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = make_inputs(gang, tokenizer)
    tokens = (inputs.end, *tokenizer("  the große river \n")["input_ids"], inputs.end)
    for _ in range(2):
        assert inputs.decode(tokens) == "the große river"
    assert inputs.decode(()) == ""
