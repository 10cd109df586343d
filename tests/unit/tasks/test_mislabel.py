"""Tasks with wrong labels: which are wrong, what stands where, and what cannot be made one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gptfluence.errors import UserError
from gptfluence.identity import reachable_modules
from gptfluence.io import read_parquet
from gptfluence.tasks.mislabel import flipped_examples
from gptfluence.tasks.prepare import prepare_task

WORLD = {"kind": "world", "seed": 1}
OTHER = {"positive": "negative", "negative": "positive", "True": "False", "False": "True", "yes": "no", "no": "yes"}


def spec(
    task: str, source: dict[str, Any], pool: int, test: int, flipped: float = 0.4, seed: int = 0
) -> dict[str, Any]:
    return {"task": f"{task}_mislabelled", "source": source, "pool": pool, "unseen_pool": 0, "test": test,
            "templates": None, "template_seed": 1, "code": "0",
            "mislabelled": {"of": task, "flipped": flipped, "seed": seed}}  # fmt: skip


def original(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "mislabelled"} | {"task": spec["mislabelled"]["of"]}


def prepared(path: Path, spec: dict[str, Any]) -> dict[tuple[str, int, str], dict[str, Any]]:
    prepare_task(spec, path)
    rows = read_parquet(path).to_pylist()
    keyed = {(row["part"], row["example"], row["format"]): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


@pytest.mark.parametrize("task", ["sst2", "rte", "boolq"])
def test_the_pool_with_noisy_and_true_labels_and_each_test_with_both(tmp_path: Path, task: str) -> None:
    wanted = spec(task, WORLD, pool=15, test=4)
    found = prepared(tmp_path / "noisy", wanted)
    clean = prepared(tmp_path / "clean", original(wanted))
    assert {key[:2] for key in found} == {("pool", i) for i in range(30)} | {("test", i) for i in range(8)}
    texts = ("prompt", "target", "facts")
    for form in ("plain", "instruction"):
        flipped = []
        for i in range(15):
            noisy, true, mine = found["pool", i, form], found["pool", 15 + i, form], clean["pool", i, form]
            assert [true[name] for name in texts] == [mine[name] for name in texts]
            assert noisy["prompt"] == true["prompt"]
            assert noisy["target"] in (true["target"], OTHER[true["target"]])
            assert noisy["references"] == [noisy["target"]]
            flipped += [i] * (noisy["target"] != true["target"])
        assert len(flipped) == 6
        assert set(flipped) == flipped_examples(task, 15, 0.4, 0)
        for k in range(4):
            true, other, mine = found["test", 2 * k, form], found["test", 2 * k + 1, form], clean["test", k, form]
            assert [true[name] for name in texts] == [mine[name] for name in texts]
            assert other["prompt"] == true["prompt"] and other["target"] == OTHER[true["target"]]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 1), (0.26, 3), (0.5, 5), (1.0, 10)])
def test_exactly_the_share_is_flipped(share: float, count: int) -> None:
    chosen = flipped_examples("sst2", 10, share, 3)
    assert len(chosen) == count and chosen <= set(range(10))


def test_the_seed_and_nothing_else_chooses(tmp_path: Path) -> None:
    assert flipped_examples("sst2", 100, 0.4, 1) == flipped_examples("sst2", 100, 0.4, 1)
    assert flipped_examples("sst2", 100, 0.4, 1) != flipped_examples("sst2", 100, 0.4, 2)
    for name in ("a", "b"):
        prepare_task(spec("sst2", WORLD, 8, 2), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def local(tmp_path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "local", "train": str(path), "test": str(path), "digests": ["a", "a"]}


def test_local_rows_whose_labels_are_words(tmp_path: Path) -> None:
    source = local(tmp_path, [{"question": "is it", "passage": f"It is {i}.", "label": "yes"} for i in range(4)])
    found = prepared(tmp_path / "b.parquet", spec("boolq", source, pool=4, test=1, flipped=0.5))
    assert sorted(found["pool", i, "plain"]["target"] for i in range(8)) == ["no"] * 2 + ["yes"] * 6
    assert [found["test", i, "plain"]["target"] for i in range(2)] == ["yes", "no"]


@pytest.mark.parametrize("task", ["webnlg", "wmt16_de_en", "cnn_dailymail"])
def test_a_task_without_labels_is_refused(tmp_path: Path, task: str) -> None:
    with pytest.raises(UserError, match=rf"mislabelled.task: '{task}' has no labels to flip; take one of rte, sst2"):
        prepare_task(spec(task, WORLD, 4, 2), tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    source = local(tmp_path, [{"sentence": "good", "label": 1}, {"sentence": "bad", "label": -1}])
    with pytest.raises(UserError, match=r"rows.jsonl:2: column 'label' is -1"):
        prepare_task(spec("sst2", source, 2, 0), tmp_path / "t.parquet")


def test_the_digest_of_a_prepared_task_covers_how_labels_are_flipped() -> None:
    assert "tasks.mislabel" in reachable_modules("tasks.prepare")
