from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from gptfluence.attribution import sketch
from gptfluence.attribution.projection import Projection
from gptfluence.attribution.sketch import sketch_gradients
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, read_provenance, write_parquet
from gptfluence.simulators.data import read_features
from transformers import AutoModelForCausalLM, AutoTokenizer

OUTPUT = Path("results/features/gradients.parquet")
TASKS = ("yesno", "text")
DAMPING = 0.1


def job(gang: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "model": gang["model"],
        "tasks": gang["tasks"],
        "formats": ["instruction", "plain"],
        "evaluation_tokens": 128,
        "settings": {"parameters": "all", "projection": 4, "damping": DAMPING, "seed": 1},
        **changes,
    }


def vectors_of(table: pa.Table) -> np.ndarray:
    return np.array(table["vector"].to_pylist())


def test_every_example_has_a_vector_of_unit_length(gang: dict[str, Any]) -> None:
    spec = job(gang)
    sketch_gradients(spec, OUTPUT)
    table = read_parquet(OUTPUT)
    words = pa.dictionary(pa.int32(), pa.string())
    types = {"task": words, "part": words, "example": pa.int32(), "format": words}
    assert table.schema.names == [*types, "vector"]
    assert {name: table.schema.field(name).type for name in types} == types
    width = table.schema.field("vector").type.list_size
    assert table.schema.field("vector").type == pa.list_(pa.float32(), width) and width <= 384
    keys = list(zip(*(table[name].to_pylist() for name in types), strict=True))
    rows = [(task, row) for task in TASKS for row in read_parquet(gang["tasks"][task]).to_pylist()]
    expected = {(task, row["part"], row["example"], row["format"]) for task, row in rows}
    assert len(keys) == len(expected) == 116 and set(keys) == expected
    np.testing.assert_allclose(np.linalg.norm(vectors_of(table), axis=1), 1, atol=1e-5)
    assert read_provenance(OUTPUT) == spec


def test_simulators_read_them_as_features(gang: dict[str, Any]) -> None:
    sketch_gradients(job(gang), OUTPUT)
    features = read_features({
        "features": str(OUTPUT), "format": "plain", "train_tasks": ["text"], "train_size": 24,
        "test_tasks": list(TASKS), "test_sizes": dict.fromkeys(TASKS, 5),
    })  # fmt: skip
    table = read_parquet(OUTPUT)
    vectors = vectors_of(table)
    for found, task, part, example in ((features.train[13], "text", "unseen_pool", 13),
                                       (features.test[2], "yesno", "test", 2)):  # fmt: skip
        (row,) = (i for i, key in enumerate(table.drop_columns("vector").to_pylist())
                  if key == {"task": task, "part": part, "example": example, "format": "plain"})  # fmt: skip
        np.testing.assert_array_equal(found, vectors[row])


def test_vectors_are_whitened_gradients(gang: dict[str, Any], model_folder: Path) -> None:
    """Their products are those of gradients that autograd gives for each, whitened by solving: no eigenvectors."""
    spec = job(gang, formats=["plain"], settings=job(gang)["settings"] | {"parameters": "linear", "projection": 2})
    sketch_gradients(spec, OUTPUT)
    found = vectors_of(read_parquet(OUTPUT))
    model = AutoModelForCausalLM.from_pretrained(model_folder).double()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    weights = {f"{name}.weight": m.weight for name, m in layers.items() if m is not model.get_output_embeddings()}
    rows = [row for task in TASKS for row in read_parquet(gang["tasks"][task]).to_pylist() if row["format"] == "plain"]
    gradients = []
    for row in rows:
        head = tokenizer(row["prompt"])["input_ids"]
        tail = [*tokenizer(" " + row["target"])["input_ids"], tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([[*head, *tail]])).logits[0, len(head) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(tail))
        gradients.append(torch.autograd.grad(loss, list(weights.values())))
    train = np.array([row["part"] != "test" for row in rows])
    encodings, groups = [], []
    for (name, weight), own in zip(weights.items(), zip(*gradients, strict=True), strict=True):
        values = torch.stack(own)
        moment = (values[train] ** 2).mean(0)
        values = values / moment.clamp(min=0.01 * moment.mean()).sqrt()
        projection = Projection(tuple(weight.shape), 2, 1, name)
        encodings.append((projection.left.double() @ values @ projection.right.double().T).flatten(1).numpy())
        groups += [name.split(".")[2] + ("attention" if ".attention." in name else "mlp")] * 4
    whole = np.concatenate(encodings, 1)
    moments = whole[train].T @ whole[train] / train.sum()
    kept = np.array(groups)[:, None] == np.array(groups)
    means = (kept * np.diag(moments)).sum(1) / kept.sum(1)
    solved = np.linalg.solve(moments * kept + np.diag(DAMPING * means), whole.T)
    products = whole @ solved
    lengths = np.sqrt(np.diag(products))
    np.testing.assert_allclose(found @ found.T, products / np.outer(lengths, lengths), atol=2e-3)


def test_narrowing_keeps_products_on_average(gang: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = job(gang, formats=["plain"])
    monkeypatch.setattr(sketch, "_WIDTH", 100_000)
    sketch_gradients(spec, OUTPUT)
    whole = vectors_of(read_parquet(OUTPUT))
    monkeypatch.setattr(sketch, "_WIDTH", 100)
    sketch_gradients(spec, OUTPUT)
    narrow = vectors_of(read_parquet(OUTPUT))
    assert narrow.shape[1] == 100 < whole.shape[1]
    products = [(some @ some.T)[np.triu_indices(len(some), 1)] for some in (whole, narrow)]
    assert abs(products[1] - products[0]).mean() < 0.12  # of a width of 100, a deviation of 0.1 is expected


def test_equal_bytes_whatever_comes_before(gang: dict[str, Any]) -> None:
    sketch_gradients(job(gang), OUTPUT)
    first = OUTPUT.read_bytes()
    torch.manual_seed(7)
    sketch_gradients(job(gang), OUTPUT)
    assert OUTPUT.read_bytes() == first


def test_what_is_read_in_one_go_does_not_count(gang: dict[str, Any]) -> None:
    found = []
    for tokens in (128, 4096):
        sketch_gradients(job(gang, evaluation_tokens=tokens), OUTPUT)
        found.append(vectors_of(read_parquet(OUTPUT)))
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


def test_equal_examples_have_equal_sketches(gang: dict[str, Any]) -> None:
    path = gang["tasks"]["text"]
    rows = read_parquet(path).to_pylist()
    first = next(row for row in rows if row["part"] == "pool" and row["format"] == "plain")
    for row in rows:
        if row["part"] == "test" and row["example"] == 0:
            row |= {key: first[key] for key in ("prompt", "target")}
    write_parquet(path, pa.Table.from_pylist(rows), {})
    sketch_gradients(job(gang, formats=["plain"]), OUTPUT)
    table = read_parquet(OUTPUT)
    keys = [(row["task"], row["part"], row["example"]) for row in table.drop_columns("vector").to_pylist()]
    vectors = vectors_of(table)
    one, other = (vectors[keys.index(("text", part, 0))] for part in ("pool", "test"))
    np.testing.assert_allclose(one, other, atol=1e-4)
    products = vectors @ one
    assert sorted(np.argsort(-products)[:2]) == sorted(keys.index(("text", part, 0)) for part in ("pool", "test"))


def test_a_task_that_is_missing_is_named(gang: dict[str, Any]) -> None:
    spec = copy.deepcopy(job(gang))
    spec["tasks"]["text"] = "data/tasks/none.parquet"
    with pytest.raises(UserError, match=r"none\.parquet"):
        sketch_gradients(spec, OUTPUT)
