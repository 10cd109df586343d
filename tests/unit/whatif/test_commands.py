from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from gptfluence.cli import main
from gptfluence.whatif.ask import load
from gptfluence.whatif.curriculum import Curriculum
from gptfluence.whatif.files import read_curricula, write_curricula
from whatif_parts import save_planted


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for method in ("gradient_response", "simfluence"):
        save_planted(method, tmp_path / f"results/simulators/g.loss.{method}.0123456789ab.safetensors")
    return tmp_path


def call(capsys: Any, *arguments: str) -> tuple[str, str]:
    main(list(arguments))
    captured = capsys.readouterr()
    return captured.out, captured.err


def fail(capsys: Any, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    return capsys.readouterr().err


SIM = "g.loss.gradient_response"


def test_answers_are_those_of_python_in_every_form(here: Path, capsys: Any) -> None:
    known = load(here / "results/simulators/g.loss.gradient_response.0123456789ab.safetensors")
    expected = known.simulate(known.random(4), ["b"])
    out, _ = call(capsys, "simulate", SIM, "random:4", "--tests", "b", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows == expected.rows().to_pylist()
    for suffix in ("jsonl", "csv", "parquet"):
        assert call(capsys, "simulate", SIM, "random:4", "--tests", "b", "-o", f"out/a.{suffix}") == ("", "")
    assert [json.loads(line) for line in Path("out/a.jsonl").read_text().splitlines()] == rows
    assert pq.read_table("out/a.parquet").to_pylist() == rows
    found = list(csv.DictReader(io.StringIO(Path("out/a.csv").read_text())))
    assert [{**row, "example": int(row["example"]), "value": float(row["value"])}["value"] for row in found] == [
        row["value"] for row in rows
    ]
    text, _ = call(capsys, "simulate", SIM, "random:4", "--tests", "b", "--top", "2")
    assert f"{expected.final[0, 0]:.4f}" in text
    assert "... 1 more" in text
    text, _ = call(capsys, "influence", SIM, "random:4", "--tests", "b:1", "--top", "1")
    best = known.influence(known.random(4), ["b:1"]).proponents("b:1", 1)[0]
    assert f"{best[0]}" in text and f"{best[1]:+.5f}" in text
    assert "interactions on the last loss" in call(capsys, "influence", SIM, "random:4", "--pairs", "a")[0]


def test_changes_are_those_of_curricula(here: Path, capsys: Any) -> None:
    known = load(here / "results/simulators/g.loss.gradient_response.0123456789ab.safetensors")
    plan = known.random(1)
    one, two, three = plan.examples[:3]
    edits = ["--without", three, "--swap", f"{one}={two}", "--repeat", f"{one}@2", "--rates", "0.5"]
    out, _ = call(capsys, "compare", SIM, "random:1", *edits, "--json")
    changed = plan.without(three).swap(one, two).repeat(one, 2).with_rates([0.5 * r for r in known.rates])
    assert [json.loads(line)["second"] for line in out.splitlines()] == pytest.approx(
        known.simulate(changed).values[0].T.ravel().tolist()
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_curricula_come_back(tmp_path: Path, suffix: str) -> None:
    curricula = [Curriculum.of([["a:1", "b:2"], ["a:1"]], [0.1, 0.05], "one"), Curriculum.of([["b:0"]], [0.2], "two")]
    write_curricula(str(tmp_path / f"c{suffix}"), curricula)
    assert read_curricula(tmp_path / f"c{suffix}") == curricula
    plain = [Curriculum.of([["a:1"], ["a:2"]], name="c")]
    write_curricula(str(tmp_path / f"c{suffix}"), plain)
    assert read_curricula(tmp_path / f"c{suffix}") == plain


def test_a_chosen_curriculum_goes_through_a_pipe(here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _ = call(capsys, "select", SIM, "--budget", "8", "--tests", "b", "-o", "-")
    monkeypatch.setattr("sys.stdin", io.StringIO(chosen))
    found, _ = call(capsys, "simulate", SIM, "-", "--tests", "b")
    text, _ = call(capsys, "select", SIM, "--budget", "8", "--tests", "b")
    assert text.split("mean loss ")[1].split()[0] == found.split("steps ")[1].split(",")[0]


MISTAKES = {
    "no such simulator": (["simulate", "g.loss.gradient_respons", "random:1"], "mean 'g.loss.gradient_response'?"),
    "no such file": (["simulate", "a.safetensors", "random:1"], "a.safetensors: no such file"),
    "no such run": (["simulate", SIM, "x"], "x: neither a file, nor a run in data/curricula"),
    "no seed": (["simulate", SIM, "random:x"], "needs a seed"),
    "unknown example": (["simulate", SIM, "random:1", "--without", "a:99"], "knows no training example 'a:99'"),
    "unknown test": (["influence", SIM, "random:1", "--tests", "a:9"], "knows no test example 'a:9'"),
    "nothing to compare": (["compare", SIM, "random:1"], "nothing to compare"),
    "no pair": (["simulate", SIM, "random:1", "--replace", "a:1"], "must be two parts with = between"),
    "no step": (["simulate", SIM, "random:1", "--repeat", "a:1@13"], "there is no step 13; its steps are 1 to 12"),
    "no format": (["simulate", SIM, "random:1", "-o", "a.txt"], "must be one of .jsonl, .csv, .parquet"),
    "no texts": (["simulate", SIM, "random:1", "--text", "t.jsonl"], "gradients of new texts need the model"),
    "no rates": (["compare", "g.loss.simfluence", "random:1", "--rates", "2"], "knows nothing of learning rates"),
    "budget": (["select", SIM, "--budget", "5"], "these do: 4, 8"),
    "line": (["simulate", SIM, "bad.csv"], "bad.csv:3: step is 'x', no whole number"),
    "both": (["simulate", SIM, "random:1", "--json", "-o", "a.csv"], "take one"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(here: Path, capsys: Any, name: str) -> None:
    Path("t.jsonl").write_text('{"id": "mine:0", "prompt": "a", "target": "b"}\n')
    Path("bad.csv").write_text("step,id\n1,a:1\nx,a:2\n")
    arguments, message = MISTAKES[name]
    said = fail(capsys, *arguments)
    assert message in said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not Path("a.csv").exists()


def test_a_reader_who_leaves_is_no_error_and_little_is_imported(here: Path) -> None:
    script = """
import sys
from gptfluence.cli import main
main(["simulate", sys.argv[1], *(f"random:{i}" for i in range(60))])
heavy = {"torch", "transformers", "pandas", "scipy"} & set(sys.modules)
assert not heavy, heavy
main(["simulate", sys.argv[1], "random:1", "--json"])
"""
    command = [sys.executable, "-c", script, SIM]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=dict(os.environ)
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
