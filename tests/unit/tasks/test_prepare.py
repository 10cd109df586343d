"""Prepared tasks: the file's columns, numbering, provenance, and errors that leave no file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from gptfluence import io
from gptfluence.errors import UserError
from gptfluence.tasks import world
from gptfluence.tasks.prepare import SCHEMA, prepare_task

REAL = Path(__file__).parents[4] / "shared" / "tasks"


def jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def spec(task: str, source: dict[str, Any], sizes: tuple[int, int, int], seed: int = 1) -> dict[str, Any]:
    pool, unseen_pool, test = sizes
    return {"task": task, "source": source, "pool": pool, "unseen_pool": unseen_pool, "test": test,
            "templates": None, "template_seed": seed, "code": "0"}  # fmt: skip


@pytest.fixture
def local(tmp_path) -> dict[str, Any]:
    rows = [{"sentence": f"film {i}", "label": i % 2} for i in range(5)]
    train, test = jsonl(tmp_path / "train.jsonl", rows), jsonl(tmp_path / "validation.jsonl", rows)
    return {"kind": "local", "train": train, "test": test, "digests": ["a", "b"]}


def own(tmp_path: Path, rows: list[dict], instruction: str) -> dict[str, Any]:
    path = jsonl(tmp_path / "own.jsonl", rows)
    return {"kind": "own", "train": path, "test": path, "prompt": "q", "target": "a", "instruction": instruction,
            "digests": ["a", "a"]}  # fmt: skip


def test_columns_numbering_and_provenance(tmp_path, local, caplog):
    wanted = spec("sst2", local, (2, 3, 2))
    caplog.set_level(logging.INFO)
    prepare_task(wanted, tmp_path / "out" / "sst2.parquet")
    table = io.read_parquet(tmp_path / "out" / "sst2.parquet")
    assert table.schema.remove_metadata() == SCHEMA
    rows = table.to_pylist()
    numbers = [
        ("pool", 0),
        ("pool", 1),
        ("unseen_pool", 2),
        ("unseen_pool", 3),
        ("unseen_pool", 4),
        ("test", 0),
        ("test", 1),
    ]
    assert [(row["part"], row["example"], row["format"]) for row in rows] == [
        (part, example, name) for part, example in numbers for name in ("plain", "instruction")
    ]
    assert rows[4] == {
        "part": "unseen_pool", "example": 2, "format": "plain", "prompt": "Review: film 2\nSentiment:",
        "target": "negative", "references": ["negative"], "facts": [],
    }  # fmt: skip
    provenance = io.read_provenance(tmp_path / "out" / "sst2.parquet")
    assert provenance == {"task": "sst2", "spec": wanted}
    assert "sst2: 2 pool, 3 unseen_pool, 2 test examples of source local" in caplog.text


def test_the_same_spec_gives_the_same_bytes(tmp_path, local):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_task(spec("sst2", local, (3, 2, 2), seed), tmp_path / name)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != other
    plain = [[row for row in io.read_parquet(tmp_path / name).to_pylist() if row["format"] == "plain"] for name in "ac"]
    assert plain[0] == plain[1]


def test_a_row_does_not_change_with_the_number_of_rows(tmp_path, local):
    prepare_task(spec("sst2", local, (2, 0, 0)), tmp_path / "few")
    prepare_task(spec("sst2", local, (4, 0, 0)), tmp_path / "more")
    assert io.read_parquet(tmp_path / "more").to_pylist()[:4] == io.read_parquet(tmp_path / "few").to_pylist()


def test_own_task_with_instruction_and_several_references(tmp_path):
    source = own(tmp_path, [{"q": "Two {and} two?", "a": ["four", "4"]}], "Answer the question.\n{prompt}")
    prepare_task(spec("trivia", source, (1, 0, 1)), tmp_path / "trivia.parquet")
    rows = io.read_parquet(tmp_path / "trivia.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == ["Two {and} two?", "Answer the question.\nTwo {and} two?"] * 2
    assert all(row["target"] == "four" and row["references"] == ["four", "4"] for row in rows)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (
            "Answer {promt}",
            r"params.yaml: tasks.own.trivia.instruction: no field \{promt\} \(did you mean 'prompt'\?\)",
        ),
        ("Answer.", r"params.yaml: tasks.own.trivia.instruction: must hold the field \{prompt\}"),
        ("{prompt.upper}", "is not a plain field name"),
    ],
)
def test_wrong_instructions(tmp_path, instruction, expected):
    source = own(tmp_path, [{"q": "Two and two?", "a": "four"}], instruction)
    with pytest.raises(UserError, match=expected):
        prepare_task(spec("trivia", source, (1, 0, 0)), tmp_path / "trivia.parquet")
    assert not (tmp_path / "trivia.parquet").exists()


def made_up(monkeypatch, *rows: dict) -> None:
    """Let the world state these rows as the pool."""

    def make_rows(seed: int, task: str, *, pool: int, unseen_pool: int, test: int) -> dict[str, list[dict]]:
        assert (seed, task, pool, unseen_pool, test) == (7, "wmt16_de_en", len(rows), 0, 0)
        return {"pool": list(rows), "unseen_pool": [], "test": []}

    monkeypatch.setattr(world, "make_rows", make_rows, raising=False)


def test_facts_of_the_world_are_kept(tmp_path, monkeypatch):
    made_up(monkeypatch, {"translation": {"de": "Ja.", "en": "Yes."}, "facts": ["a", "b"]})
    prepare_task(spec("wmt16_de_en", {"kind": "world", "seed": 7}, (1, 0, 0)), tmp_path / "w.parquet")
    rows = io.read_parquet(tmp_path / "w.parquet").to_pylist()
    assert [(row["target"], row["facts"]) for row in rows] == [("Yes.", ["a", "b"])] * 2


def test_an_empty_text_names_the_row(tmp_path, monkeypatch):
    made_up(monkeypatch, {"de": "Ja.", "en": "Yes."}, {"de": "Nein.", "en": " "})
    with pytest.raises(UserError, match="task 'wmt16_de_en', pool example 1: column 'en' is empty"):
        prepare_task(spec("wmt16_de_en", {"kind": "world", "seed": 7}, (2, 0, 0)), tmp_path / "w.parquet")
    assert not (tmp_path / "w.parquet").exists()


def test_an_empty_target_by_a_template_names_the_row(tmp_path, local, monkeypatch):
    from gptfluence.tasks import render

    monkeypatch.setitem(render.PLAIN, "sst2", ("{sentence}", " "))
    with pytest.raises(UserError, match="task 'sst2', pool example 0: its plain target is empty"):
        prepare_task(spec("sst2", local, (1, 0, 0)), tmp_path / "s.parquet")


@pytest.mark.parametrize("task", ["rte", "sst2", "boolq", "webnlg", "wmt16_de_en", "cnn_dailymail"])
def test_the_real_world_source(tmp_path, task):
    prepare_task(spec(task, {"kind": "world", "seed": 1}, (6, 4, 3)), tmp_path / "w.parquet")
    rows = io.read_parquet(tmp_path / "w.parquet").to_pylist()
    assert len(rows) == 2 * 13
    assert any(row["facts"] for row in rows)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real task data (../shared/tasks) are not here")
@pytest.mark.parametrize("task", ["rte", "sst2", "boolq", "webnlg", "wmt16_de_en", "cnn_dailymail"])
def test_real_tasks(tmp_path, task):
    test = next((path for path in sorted((REAL / task).glob("*.jsonl")) if path.stem != "train"), None)
    source = {"kind": "local", "train": str(REAL / task / "train.jsonl"), "test": test and str(test), "digests": []}
    prepare_task(spec(task, source, (200, 200, 100 if test else 0)), tmp_path / "t.parquet")
    rows = io.read_parquet(tmp_path / "t.parquet").to_pylist()
    assert len(rows) == 2 * (500 if test else 400)
    for row in rows:
        assert row["target"] == row["references"][0]
        assert all(text == text.strip() and text for text in (row["prompt"], row["target"]))
