"""The table of simulators that are taken apart, from made-up scores."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from gptfluence.paper.tables import write_table
from made_up import markdown_tables
from made_up_apart import GROUPS, make_apart, write_apart


def write(folder: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    outputs = {form: folder / f"table_simulators.{form}" for form in ("csv", "html", "md", "tex")}
    spec = {"module": "table_simulators", "scale": "nano", "models": ["small", "a-large"]}
    write_table(spec | {"simulators": write_apart(folder / "simulators.parquet", rows)}, outputs)
    return {form: path.read_text(encoding="utf-8") for form, path in outputs.items()}


def test_layout(tmp_path: Path) -> None:
    unseen, variants, runs, tests, steps = markdown_tables(write(tmp_path, make_apart())["md"])
    scenarios, measures = ("Fine-tuning", "Instruction tuning"), ("Skill", "Across-run r")
    heads = ["Simulator", "Method", *(f"{scenario} {measure}" for scenario in scenarios for measure in measures)]
    assert unseen[0] == variants[0] == runs[0] == heads
    ours = "Gradient response (ours)"
    assert [(row[0], row[1]) for row in unseen[2:]] == [
        ("Mean curve", "unseen training examples"),
        (ours, "unseen training examples"),
        ("Predicted mean curve", "unseen tests"),
        (ours, "unseen tests"),
        ("Predicted mean curve", "both unseen"),
        (ours, "both unseen"),
    ]
    assert [row[2][:6] for row in unseen[2:]] == ["0.00 [", "**0.20", "0.00 [", "**0.30", "0.00 [", "**0.40"]
    assert [row[:2] for row in variants[2:]] == [["Mean curve", "whole"], [ours, "whole"], [ours, "no decay"]]
    assert [row[1] for row in runs[2:]] == ["2 runs", "3 runs"] * 2
    assert [row[:3] for row in tests[2:]] == [[ours, "4 tests a task", "0.35 [0.32, 0.38]"]]
    assert [row[1:3] for row in steps[2:]] == [["every 2 steps", "0.38 [0.35, 0.41]"],
                                               ["every 5 steps", "0.35 [0.32, 0.38]"]]  # fmt: skip


def test_schedules_stand_by_name_behind_their_mean(tmp_path: Path) -> None:
    like = {**make_apart()[0], "varied": "", "number": 0, "n": 1, "low": 0.0, "high": 0.02}
    rows = [
        like
        | {
            "setting": setting,
            "method": method,
            "variant": schedule,
            "measure": measure,
            "value": value,
            "group": group,
        }
        for group in ("fine_tuning-small-rte", "fine_tuning-small-sst2")
        for setting, names in (("schedule_seen", ("mean_curve", "time_curve")), ("schedule_unseen", ("time_curve",)))
        for method in names
        for schedule in ("own", "average", "half_rate", "batch_8")
        for measure, value in (("all_steps_mse", 0.01234), ("skill", 0.01))
    ]
    (block,) = markdown_tables(write(tmp_path, rows)["md"])
    assert block[0] == ["Schedule", "Method", "MSE", "Skill", "Across-run r"]
    labels = ("mean over schedules", "the scenario's own", "batch 8", "half rate")
    assert [row[:2] for row in block[2:]] == [
        [f"{label}, {seen}", method]
        for label in labels
        for seen, methods in (
            ("fitted on", ("Mean curve", "Mean curve in optimiser time")),
            ("not fitted on", ("Mean curve in optimiser time",)),
        )
        for method in methods
    ]
    assert "0.0123 [" in block[2][2] and "0.01 [" in block[2][3] and block[2][4] == "–"


def test_variants_stand_by_name_behind_the_whole(tmp_path: Path) -> None:
    rows = make_apart()
    other = [row | {"variant": name} for name in "cadb" for row in rows if row["variant"] == "no_decay"]
    _, variants, *_ = markdown_tables(write(tmp_path, other + rows)["md"])
    assert [row[1] for row in variants[3:]] == ["whole", "a", "b", "c", "d", "no decay"]


def test_values_are_means_over_the_groups_of_a_scenario(tmp_path: Path) -> None:
    text = write(tmp_path, make_apart())["csv"]
    rows = list(csv.DictReader(text.splitlines()))
    (row,) = [
        row for row in rows
        if row["setting"] == "seen" and (row["scenario"], row["method"], row["variant"], row["varied"], row["measure"])
        == ("fine_tuning", "gradient_response", "no_decay", "", "skill")
    ]  # fmt: skip
    assert float(row["value"]) == pytest.approx((0.25 + 0.35) / 2)
    assert float(row["high"]) - float(row["value"]) == pytest.approx(0.04 / 2**0.5)
    assert row["n"] == "2"
    bold = {(row["scenario"], row["method"], row["variant"]) for row in rows
            if row["bold"] == "True" and row["measure"] == "skill" and row["setting"] == "seen"}  # fmt: skip
    assert bold == {(s, "gradient_response", "whole") for s in ("fine_tuning", "instruction_tuning")}


def test_what_one_group_alone_has_is_no_mean(tmp_path: Path) -> None:
    """More runs than the plan's are in the first of two groups; with that group alone they stand there."""
    assert "8 runs" not in write(tmp_path, make_apart())["md"]
    *_, runs, _, _ = markdown_tables(write(tmp_path, make_apart(GROUPS[:1]))["md"])
    assert [row[1] for row in runs[2:]] == ["2 runs", "3 runs", "8 runs"] * 2 + ["8 runs, chosen"]


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    texts = write(tmp_path, [])
    assert "no method has variants or learning curves" in texts["md"]
    assert texts["csv"].count("\n") == 1
