"""Fact tracing on files of the user: what is found, what a step does, what a killed command leaves, what is refused."""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gptfluence.attribution.trace import METHODS, add_arguments, read_passages, run, trace
from gptfluence.design import make_design
from gptfluence.dynamics.models import load_model, load_tokenizer
from gptfluence.dynamics.pretrain import pretrain_model
from gptfluence.errors import UserError
from gptfluence.params import read_params
from gptfluence.tasks.world import make_world
from unit.dynamics.conftest import sentence

SETTINGS: dict[str, Any] = {
    "parameters": "all",
    "projection": 4,
    "damping": 0.1,
    "seed": 0,
    "evaluation_tokens": 512,
    "learning_rate": 1e-3,
    "optimizer": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-6, "weight_decay": 0.0},
}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_output(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def spec(model_folder: Path) -> dict[str, Any]:
    return {"source": "folder", "path": str(model_folder), "max_length": 96, "lora": None}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """40 made-up passages and 3 queries; the first query repeats the words of passage p7."""
    generator = random.Random(3)
    passages = [{"id": f"p{i}", "text": sentence(generator, 4 + i % 7), "facts": [f"f{i}"]} for i in range(40)]
    words = passages[7]["text"].split()
    queries = [
        {"id": 1, "prompt": " ".join(words[:-1]), "target": words[-1], "facts": ["f7"]},
        {"id": 2, "prompt": "the old mayor", "target": "paints boats", "facts": ["f7", "f9"]},
        {"id": 3, "prompt": "a town in", "target": "Köln", "facts": ["unknown"]},
    ]
    return write_lines(tmp_path / "passages.jsonl", passages), write_lines(tmp_path / "queries.jsonl", queries)


Trace = Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]


@pytest.fixture
def traced(spec: dict[str, Any], files: tuple[Path, Path], tmp_path: Path) -> Trace:
    def do(method: str, k: int = 5, tail_patch: int = 0, output: str = "out.jsonl", **settings: Any) -> Any:
        path = tmp_path / output
        summary = trace(spec, *files, path, method, k, tail_patch, SETTINGS | settings)
        assert json.loads((tmp_path / f"{output}.summary.json").read_text()) == summary
        return read_output(path), summary

    return do


# --------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("method", METHODS)
def test_the_output_has_the_best_passages_of_each_query(
    method: str, traced: Trace, files: tuple[Path, Path], tmp_path: Path
) -> None:
    rows, summary = traced(method)
    texts = {passage.id: passage.text for passage in read_passages(files[0])}
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert (rows[2]["prompt"], rows[2]["target"]) == ("a town in", "Köln")
    for row in rows:
        assert len({p["id"] for p in row["proponents"]}) == len(row["proponents"]) == 5
        scores = [p["score"] for p in row["proponents"]]
        assert scores == sorted(scores, reverse=True)
        assert all(p["text"] == texts[p["id"]] for p in row["proponents"])
    assert (summary["method"], summary["passages"], summary["queries"]) == (method, 40, 3)
    assert summary["queries_with_known_passages"] == 2  # no passage states the third query's fact
    again, _ = traced(method, output="again.jsonl")
    assert again == rows


@pytest.mark.parametrize("method", METHODS)
def test_a_passage_that_repeats_the_query_is_found_first(method: str, traced: Trace) -> None:
    rows, _ = traced(method)
    assert rows[0]["proponents"][0]["id"] == "p7"


def test_bm25_equals_its_formula(traced: Trace, files: tuple[Path, Path]) -> None:
    """Lucene's form of BM25 with k1 = 1.5 and b = 0.75 over the words of prompt and target."""
    rows, _ = traced("bm25", k=40)
    split = [p.text.lower().rstrip(".").split() for p in read_passages(files[0])]
    mean = np.mean([len(words) for words in split])
    for row in rows:
        expected = []
        for words in split:
            score = 0.0
            for word in f"{row['prompt']} {row['target']}".lower().rstrip(".").split():
                holding = sum(word in other for other in split)
                count = words.count(word)
                if count:
                    idf = np.log(1 + (40 - holding + 0.5) / (holding + 0.5))
                    score += idf * count / (count + 1.5 * (0.25 + 0.75 * len(words) / mean))
            expected.append(score)
        found = {p["id"]: p["score"] for p in row["proponents"]}
        np.testing.assert_allclose([found[f"p{i}"] for i in range(40)], expected, rtol=1e-4)


def test_grad_dot_equals_autograd_one_example_at_a_time(
    traced: Trace, files: tuple[Path, Path], spec: dict[str, Any]
) -> None:
    rows, _ = traced("grad_dot", k=40)
    model, tokenizer = load_model(spec, torch.device("cpu")), load_tokenizer(spec)
    model.set_attn_implementation("eager")

    def gradient(tokens: list[int], target: int) -> torch.Tensor:
        """Of the mean loss of the last tokens; each predicted from those before it."""
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -target - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[-target:]))
        return torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(model.parameters()))])

    encoded = [tokenizer(p.text)["input_ids"] for p in read_passages(files[0])]
    passages = torch.stack([gradient(tokens, len(tokens) - 1) for tokens in encoded])
    for row in rows:
        target = tokenizer(" " + row["target"])["input_ids"]
        query = gradient(tokenizer(row["prompt"])["input_ids"] + target, len(target))
        expected = passages @ query
        found = {p["id"]: p["score"] for p in row["proponents"]}
        scores = np.array([found[f"p{i}"] for i in range(40)])
        np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-3, atol=1e-5 * np.abs(scores).max())


def test_measures_of_what_is_found(tmp_path: Path, spec: dict[str, Any]) -> None:
    """By hand: the one passage of query 1 stands second; query 2 has two, at the ranks 1 and 12."""
    words = ["alpha", "beta"]
    passages = [{"id": i, "text": f"beta filler{i} words", "facts": []} for i in range(12)]
    passages[0] = {"id": 0, "text": "beta beta beta", "facts": ["b"]}
    passages[1] = {"id": 1, "text": "alpha alpha alpha", "facts": []}
    passages[2] = {"id": 2, "text": "alpha filler2 words", "facts": ["a"]}
    passages[11] = {"id": 11, "text": "nothing in common", "facts": ["b"]}
    queries = [{"id": w, "prompt": w, "target": w, "facts": [w[0]]} for w in words]
    files = write_lines(tmp_path / "p.jsonl", passages), write_lines(tmp_path / "q.jsonl", queries)
    summary = trace(spec, *files, tmp_path / "out.jsonl", "bm25", 3, 0, SETTINGS)
    assert summary["queries_with_known_passages"] == 2
    assert summary["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert summary["recall_at_10"] == pytest.approx((1 + 1 / 2) / 2)


def test_without_facts_nothing_is_claimed(tmp_path: Path, spec: dict[str, Any]) -> None:
    passages = write_lines(tmp_path / "p.jsonl", [{"id": i, "text": f"the town {i}"} for i in range(3)])
    queries = write_lines(tmp_path / "q.jsonl", [{"id": 1, "prompt": "the", "target": "town"}])
    assert trace(spec, passages, queries, tmp_path / "o.jsonl", "bm25", 9, 0, SETTINGS) == {
        "method": "bm25", "passages": 3, "queries": 1,
    }  # fmt: skip
    assert len(read_output(tmp_path / "o.jsonl")[0]["proponents"]) == 3


# ------------------------------------------------------------------------------------------------------ tail-patch


def test_tail_patch_equals_a_step_by_hand(traced: Trace, spec: dict[str, Any]) -> None:
    rows, summary = traced("bm25", tail_patch=2)
    tokenizer = load_tokenizer(spec)

    def log_probability(model: torch.nn.Module, row: dict[str, Any]) -> float:
        target = tokenizer(" " + row["target"])["input_ids"]
        tokens = tokenizer(row["prompt"])["input_ids"] + target
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits[0, -len(target) - 1 : -1]
        return logits.log_softmax(-1)[range(len(target)), target].mean().item()

    gains = []
    for row in rows:
        for proponent in row["proponents"][:2]:
            model = load_model(spec, torch.device("cpu"))
            model.set_attn_implementation("eager")
            before = log_probability(model, row)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0)
            tokens = torch.tensor([tokenizer(proponent["text"])["input_ids"]])
            torch.nn.functional.cross_entropy(model(input_ids=tokens).logits[0, :-1], tokens[0, 1:]).backward()
            optimizer.step()
            gains.append(log_probability(model, row) - before)
    assert summary["tail_patch"] == pytest.approx(np.mean(gains), rel=1e-3)
    assert summary["tail_patch_proponents"] == 2


# ----------------------------------------------------------------------------------------------------------- store


def test_the_store_is_used_again_and_that_of_another_model_refused(
    traced: Trace, spec: dict[str, Any], files: tuple[Path, Path], tmp_path: Path, model_folder: Path
) -> None:
    rows, _ = traced("trackstar", k=2)
    more, _ = traced("trackstar", k=5)
    assert [row["proponents"][:2] for row in more] == [row["proponents"] for row in rows]

    other = tmp_path / "other"
    model, tokenizer = load_model(spec, torch.device("cpu")), load_tokenizer(spec)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(UserError, match=r"out\.jsonl\.store.*model"):
        trace(spec | {"path": str(other)}, *files, tmp_path / "out.jsonl", "trackstar", 2, 0, SETTINGS)
    with pytest.raises(UserError, match=r"out\.jsonl\.store.*projection"):
        traced("trackstar", projection=5)
    write_lines(files[0], [{"id": 1, "text": "the mayor bakes bread"}])
    with pytest.raises(UserError, match=r"out\.jsonl\.store.*passages"):
        traced("trackstar")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trackstar", "grad_dot"])
def test_a_killed_command_goes_on_to_the_same_output(
    method: str, spec: dict[str, Any], tmp_path: Path, files: tuple[Path, Path]
) -> None:
    generator = random.Random(4)
    passages = write_lines(
        tmp_path / "many.jsonl", [{"id": i, "text": sentence(generator, 5 + i % 9)} for i in range(1000)]
    )
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom gptfluence.attribution.trace import trace\n"
        "spec, settings, passages, queries, output, method = sys.argv[1:]\n"
        "trace(json.loads(spec), Path(passages), Path(queries), Path(output), method, 5, 0, json.loads(settings))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(spec), json.dumps(SETTINGS), str(passages), str(files[1]),
               str(killed), method]  # fmt: skip
    trace(spec, passages, files[1], whole, method, 5, 0, SETTINGS)
    process = subprocess.Popen(command)
    until = time.monotonic() + 60
    while time.monotonic() < until and written(killed) == 0 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and not killed.exists()
    assert 0 < written(killed) < 1000
    subprocess.run(command, check=True)
    assert killed.read_bytes() == whole.read_bytes()


def written(output: Path) -> int:
    """How many rows of a store count."""
    files = list(output.with_name(output.name + ".store").rglob("written.json"))
    return json.loads(files[0].read_text())["rows"] if files else 0


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "text": "a"', r"passages\.jsonl:2: not JSON"),
        ("[1]", r"passages\.jsonl:2: not a JSON object"),
        ('{"text": "the mayor"}', r"passages\.jsonl:2: 'id' must be a text or a whole number, but there is none"),
        ('{"id": 1.5, "text": "the mayor"}', r"passages\.jsonl:2: 'id' must be .* not 1\.5"),
        ('{"id": 1}', r"passages\.jsonl:2: 'text' must be a text that is not empty, but there is none"),
        ('{"id": 1, "text": "  "}', r"passages\.jsonl:2: 'text' must be a text that is not empty"),
        ('{"id": 1, "text": "a", "facts": "f"}', r"passages\.jsonl:2: 'facts' must be a list of texts, not \"f\""),
        ('{"id": "p0", "text": "the mayor"}', r"passages\.jsonl:2: id \"p0\" stands on .*passages\.jsonl:1 too"),
    ],
)
def test_wrong_lines_are_named(line: str, message: str, traced: Trace, files: tuple[Path, Path]) -> None:
    first = files[0].read_text(encoding="utf-8").splitlines()[0]
    files[0].write_text(f"{first}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        traced("bm25")


def test_wrong_queries_and_empty_files_are_named(traced: Trace, files: tuple[Path, Path]) -> None:
    write_lines(files[1], [{"id": 1, "prompt": "", "target": "b"}])
    with pytest.raises(UserError, match=r"queries\.jsonl:1: 'prompt' must be a text that is not empty, not \"\""):
        traced("bm25")
    write_lines(files[1], [{"id": 1, "prompt": "a"}])
    with pytest.raises(UserError, match=r"queries\.jsonl:1: 'target' must be"):
        traced("bm25")
    files[1].write_text("\n")
    with pytest.raises(UserError, match=r"queries\.jsonl: is empty"):
        traced("bm25")
    files[1].unlink()
    with pytest.raises(UserError, match=r"queries\.jsonl: cannot be read: No such file"):
        traced("bm25")


def test_wrong_requests_are_named(traced: Trace, files: tuple[Path, Path], spec: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"no method 'trackstr' \(did you mean 'trackstar'\?\)"):
        traced("trackstr")
    with pytest.raises(UserError, match="k = 0"):
        traced("bm25", k=0)
    with pytest.raises(UserError, match="tail-patch = 6"):
        traced("bm25", tail_patch=6)
    for rate in (0, -1e-3, float("nan")):
        with pytest.raises(UserError, match=r"learning rate .*: it must be above 0"):
            traced("bm25", learning_rate=rate)
    write_lines(files[0], [{"id": 5, "text": "a"}])
    with pytest.raises(UserError, match="passage 5: its text is one token long"):
        traced("grad_dot")
    with pytest.raises(UserError, match=r"no model folder"):
        trace(spec | {"path": "/nowhere"}, *files, Path("out.jsonl"), "grad_dot", 1, 0, SETTINGS)


def test_a_gradient_that_is_not_finite_is_placed(
    spec: dict[str, Any], files: tuple[Path, Path], tmp_path: Path
) -> None:
    """A model with a broken token, which one passage alone has, in the second chunk."""
    model, tokenizer = load_model(spec, torch.device("cpu")), load_tokenizer(spec)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("~")["input_ids"]] = float("nan")
    broken = tmp_path / "broken"
    model.save_pretrained(broken)
    tokenizer.save_pretrained(broken)
    write_lines(files[0], [{"id": i, "text": "the old ~ town" if i == 300 else "the old town"} for i in range(301)])
    message = r"passages 256 to 300 \(numbered from 0\): example 44: its loss is not finite"
    with pytest.raises(UserError, match=message):
        trace(spec | {"path": str(broken)}, *files, tmp_path / "o.jsonl", "grad_dot", 1, 0, SETTINGS)


# ---------------------------------------------------------------------------------------------------- command line


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's settings, with a smaller corpus to pre-train on, in the working directory."""
    settings = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))
    settings["dynamics"]["pretraining"] |= {"sentences": 6000}
    settings["attribution"] |= {"projection": 8}
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "params.yaml"


def test_models_that_are_not_there_are_named(params: Path, files: tuple[Path, Path]) -> None:
    given = ["--passages", str(files[0]), "--queries", str(files[1]), "--output", "out.jsonl"]
    with pytest.raises(UserError, match=r"--model nano-0\.2: not in dynamics.models .*did you mean 'nano-0\.2m'"):
        run(options("--model", "nano-0.2", *given))
    with pytest.raises(UserError, match=r"data/models/nano-0\.2m\.\w+: missing\. The pipeline makes it: run snakemake"):
        run(options("--model", "nano-0.2m", *given))
    with pytest.raises(UserError, match=r"--model nano-0\.3m: scale nano has no runs of it"):
        run(options("--model", "nano-0.3m", *given))


@pytest.mark.slow
def test_a_model_of_the_world_is_traced_to_the_facts_that_it_was_told(
    params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fact stands in one wording and is asked in another; the model has learnt it from a corpus of its own."""
    design = make_design(read_params(params))
    pretrain_model(design.models["nano-0.2m"], Path(design.model_folder("nano-0.2m") or ""))
    generator = random.Random(5)
    passages, queries = [], []
    for fact in make_world(1).facts[::3]:
        wordings = [english for english, _ in fact.relation.pairs]
        told = generator.choice(wordings)
        passages.append({"id": fact.id, "text": told.format(s=fact.subject, o=fact.object), "facts": [fact.id]})
        asked = [wording for wording in wordings if wording != told and wording.endswith(" {o}.")]
        if asked and not fact.new:
            prompt = asked[0].removesuffix(" {o}.").format(s=fact.subject)
            queries.append({"id": fact.id, "prompt": prompt, "target": fact.object.en, "facts": [fact.id]})
    write_lines(Path("passages.jsonl"), generator.sample(passages, len(passages)))
    write_lines(Path("queries.jsonl"), generator.sample(queries, 40))
    found = {}
    for method in METHODS:
        output = f"{method}.jsonl"
        run(options("--model", "nano-0.2m", "--passages", "passages.jsonl", "--queries", "queries.jsonl",
                    "--method", method, "--tail-patch", "3", "--output", output))  # fmt: skip
        assert f"proponents: {output}" in capsys.readouterr().out
        found[method] = json.loads(Path(f"{output}.summary.json").read_text())
        assert found[method]["queries_with_known_passages"] == 40
        assert found[method]["tail_patch"] > 0
    chance = sum(1 / rank for rank in range(1, len(passages) + 1)) / len(passages)
    assert min(summary["mrr"] for summary in found.values()) > 20 * chance
    # Words find facts best, and what gradients find moves the model more [Chang et al.].
    assert found["bm25"]["mrr"] > found["trackstar"]["mrr"]
    assert found["trackstar"]["tail_patch"] > found["bm25"]["tail_patch"]
