from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gptfluence.dynamics import train, trainer
from gptfluence.dynamics.tokens import TOKENS, Tokenised, tokenised
from gptfluence.errors import UserError
from gptfluence.io import read_parquet
from transformers import AutoTokenizer


def none() -> Any:
    pytest.fail("no tokenizer is needed")


@pytest.fixture
def model(gang: dict[str, Any]) -> dict[str, Any]:
    return gang["model"]


def made(gang: dict[str, Any], form: str = "plain") -> Tokenised:
    folder = gang["model"]["path"]
    return tokenised(gang["model"], gang["tasks"]["text"], form, lambda: AutoTokenizer.from_pretrained(folder))


def test_tokens_are_the_tokenizers_own_and_made_once(gang: dict[str, Any], model: dict[str, Any]) -> None:
    first = made(gang)
    tokenizer = AutoTokenizer.from_pretrained(model["path"])
    examples = [row for row in read_parquet(gang["tasks"]["text"]).to_pylist() if row["format"] == "plain"]
    assert len(first.rows) == len(examples) == 29 and first.end == tokenizer.eos_token_id
    for row, example in zip(first.rows, examples, strict=True):
        assert (row["part"], row["example"], row["references"]) == tuple(
            example[key] for key in ("part", "example", "references")
        )
        assert tokenizer.decode([*row["prompt"], *row["target"]]) == f"{example['prompt']} {example['target']}"
        assert row["longest_reference"] == max(len(tokenizer(r)["input_ids"]) for r in example["references"])
    assert tokenised(model, gang["tasks"]["text"], "plain", none) == first


def test_each_form_and_model_has_tokens_of_its_own(gang: dict[str, Any], model: dict[str, Any]) -> None:
    made(gang)
    made(gang, "instruction")
    made(gang | {"model": model | {"revision": "other"}})
    assert len(list(TOKENS.iterdir())) == 3
    # Where a model is cut, or adapted, changes no token.
    tokenised(model | {"max_length": 7, "lora": {"rank": 2}}, gang["tasks"]["text"], "plain", none)
    assert len(list(TOKENS.iterdir())) == 3


def test_damaged_tokens_are_named_and_made_anew(gang: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    first = made(gang)
    (path,) = TOKENS.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert made(gang) == first
    assert path.name in caplog.text and "tokenised anew" in caplog.text
    assert path.read_bytes() == content


def test_missing_task_is_named_though_its_tokens_were_never_made(gang: dict[str, Any]) -> None:
    Path(gang["tasks"]["text"]).unlink()
    with pytest.raises(UserError, match="missing"):
        made(gang)


def test_second_job_without_texts_loads_no_tokenizer(gang: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"yesno": ["loss"], "text": ["loss"]}
    first, second = gang["runs"]
    train.train_runs(gang | {"runs": [first], "metrics": metrics}, Path("first.json"))
    monkeypatch.setattr(trainer, "load_tokenizer", lambda _: none())
    train.train_runs(gang | {"runs": [second], "metrics": metrics}, Path("second.json"))
    assert json.loads(Path("second.json").read_text()).keys() == {"run-2"}
