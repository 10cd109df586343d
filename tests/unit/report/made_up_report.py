"""A report of made-up scores, with seven tables and two figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from drawn_from import make_curves
from gptfluence.design import SCORED, item_modules
from gptfluence.io import file_digest, write_json, write_parquet
from gptfluence.paper.figures import write_figure
from gptfluence.paper.tables import write_table
from gptfluence.scores.curves import write_curves
from gptfluence.scores.score import SCHEMA
from made_up import make_noise, make_scores
from made_up_apart import make_apart, write_apart
from made_up_choices import make_choices, write_choices
from made_up_judged import make_judged, make_mislabels, write_judged, write_mislabels

MODELS = ["nano-0.2m", "<b>bold</b> & wide"]
"""The second one is a name that would be markup if it were not escaped."""

TABLES = ("table_1", "table_2", "table_3", "table_4", "table_attribution", "table_simulators", "table_choices")
FIGURES = ("figure_6", "figure_7")
"""The others take long to draw."""

METHODS = ("mean_curve", "persistence", "simfluence", "gptfluence", "gradient_response", "tracin_cp", "my_method")


def make_all_scores() -> list[dict[str, Any]]:
    """Scores of two scenarios and models, in which some skills lie above 0, some below, and some on both sides."""
    scores = make_scores(tuple(MODELS), ("fine_tuning", "instruction_tuning"), methods=METHODS)
    for row in scores:
        if row["measure"] == "skill":
            shift = {"mean_curve": 0.3, "simfluence": 0.8, "gptfluence": 0.55}.get(row["method"], 0.0)
            row |= {end: row[end] - shift for end in ("value", "low", "high")}
    extra = [row | {"measure": "coverage_80"} for row in scores
             if (row["method"], row["measure"]) == ("gradient_response", "all_steps_mae")]  # fmt: skip
    unseen = [row | {"setting": "unseen_train"} for row in scores if row["measure"] == "skill"]
    return [*scores, *extra, *unseen, *make_noise()]


def write_inputs(folder: Path) -> dict[str, Any]:
    """Write all that a report is made from below a folder, in which it is to be made; return its spec."""
    scores = {name: str(folder / path) for name, path in SCORED.items()}
    provenance = {"scores": {"confidence": 0.95}}
    write_parquet(scores["scores"], pa.Table.from_pylist(make_all_scores(), SCHEMA), provenance)
    write_curves(scores["curves"], make_curves())
    write_judged(scores["attribution"], make_judged())
    write_mislabels(scores["mislabels"], make_mislabels())
    write_apart(scores["simulators"], make_apart())
    write_choices(scores["choices"], make_choices())
    common = {"scale": "made-up", "models": MODELS}
    tables = {name: common | {"table": name, "module": _module(name)} | scores for name in TABLES}
    stages = {"dynamics": {"files": ["data/dynamics/a.parquet", "data/dynamics/b.parquet"], "digest": "0" * 12}}
    for name, spec in tables.items():
        outputs = {form: folder / f"results/tables/{name}.{form}" for form in ("csv", "html", "md", "tex")}
        write_table(spec, outputs)
        stages[name] = _note(outputs)
    for name in FIGURES:
        outputs = {form: folder / f"results/figures/{name}.{form}" for form in ("pdf", "png")}
        write_figure(
            common | {"figure": name, "module": _module(name), "width_in": 6.75, "example_curves": 2} | scores, outputs
        )
        stages[name] = _note(outputs)
    return {
        "scale": "made-up",
        "models": MODELS,
        "tables": tables,
        "figures": {name: str(folder / f"results/figures/{name}.png") for name in FIGURES},
        "scores": scores,
        "gangs": [
            {"scenario": "fine_tuning", "model": "nano-0.2m", "name": "g-1.abc",
             "runs": [{"split": split, "shard": str(folder / f"data/dynamics/{i}.parquet")}
                      for i, split in enumerate(("fit", "fit", "held_out"))]},
            {"scenario": "instruction_tuning", "model": "<b>bold</b> & wide", "name": "g-2.abc",
             "runs": [{"split": "fit", "shard": str(folder / "data/dynamics/3.parquet")}]},
        ],
        "devices": {"nano-0.2m": "cpu", "<b>bold</b> & wide": "gpu"},
        "jobs": {"fit_simulator": ["a.loss.m.abc", "b.loss.m.abc"], "choose_data": []},
        "stages": stages,
        "code": "0" * 12,
    }  # fmt: skip


def _module(item: str) -> str:
    package, module = item_modules(item)
    return module.removeprefix(f"{package}.")


def _note(outputs: dict[str, Path]) -> dict[str, Any]:
    """Say of some files what made them, as a job does."""
    first = next(iter(outputs.values()))
    note = first.with_suffix(".provenance.json")
    made = {"rule": "write", "spec": "1" * 12, "code": "2" * 12}
    write_json(note, made | {"files": {path.name: file_digest(path) for path in outputs.values()}})
    return {"files": [*map(str, outputs.values()), str(note)], "digest": json.loads(note.read_text())["spec"]}
