"""The table of attribution from made-up scores."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from gptfluence.paper.tables import write_table
from made_up import markdown_tables
from made_up_judged import GROUPS, REPLAYS, TABLES, make_judged, make_mislabels, write_judged, write_mislabels

SIMULATION = ["MSE", "MAE", "Spearman", "Skill", "Across-run r"]


def write(folder: Path, rows: list[dict[str, Any]], mislabels: list[dict[str, Any]]) -> dict[str, str]:
    outputs = {form: folder / f"table_attribution.{form}" for form in ("csv", "md", "html", "tex")}
    spec = {
        "module": "table_attribution",
        "attribution": write_judged(folder / "attribution.parquet", rows),
        "mislabels": write_mislabels(folder / "mislabels.parquet", mislabels),
        "scale": "nano",
        "models": ["small"],
    }
    write_table(spec, outputs)
    return {form: path.read_text() for form, path in outputs.items()}


def row_of(table: list[list[str]], method: str) -> dict[str, str]:
    (row,) = (row for row in table if row[1] == method)
    return dict(zip(table[0], row, strict=True))


def test_averages_come_first_and_each_method_has_one_row(tmp_path: Path) -> None:
    text = write(tmp_path, make_judged(), make_mislabels())["md"]
    assert re.findall("^## (.*)$", text, re.M) == ["Averages over 3 groups", *(f"Group {group}" for group in GROUPS)]
    tables = markdown_tables(text)
    averages, first, second, _ = tables
    assert averages[0] == [
        "Family", "Method", *(f"As it is {name}" for name in SIMULATION), *(f"Scaled {name}" for name in SIMULATION),
        "LDS", "Tail-patch", "MRR", "Recall@10", "CPU seconds", "Wrong labels AUC", "Wrong labels Found at 20%",
    ]  # fmt: skip
    assert first[0] == averages[0][:-2]
    assert second[0] == [name for name in first[0] if name not in ("MRR", "Recall@10")]  # no facts
    methods = [row[1] for row in averages[2:]]
    assert len(set(methods)) == len(methods) == len({*TABLES, *REPLAYS, "datamodel", "mean_curve", "gptfluence"})
    families = list(dict.fromkeys(row[0] for row in averages[2:]))
    assert families == ["Trivial", "Text", "Gradients", "TrackStar", "Replayed", "Fitted", "Measured"]
    for table in tables:
        assert {len(row) for row in table} == {len(table[0])}


def test_cells_are_the_scores(tmp_path: Path) -> None:
    rows = make_judged()
    texts = write(tmp_path, rows, make_mislabels())
    averages, first, *_ = markdown_tables(texts["md"])
    lds = {row["group"]: row for row in rows if (row["method"], row["measure"]) == ("bm25", "lds")}
    one = lds[GROUPS[0]]
    assert row_of(first, "BM25")["LDS"] == f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
    assert row_of(averages, "BM25")["LDS"].startswith(f"{sum(row['value'] for row in lds.values()) / 3:.3f} [")
    tracin = row_of(averages, "TracIn-CP")
    assert (tracin["As it is Skill"], tracin["Wrong labels AUC"]) == ("-40.000", "**0.740**")
    assert float(tracin["Scaled Skill"].strip("*")) > 0
    assert row_of(averages, "TracIn, every step")["LDS"] == "–"
    assert row_of(averages, "GPTfluence")["Wrong labels Found at 20%"] == "0.180"
    # Full precision, each score once, the fitted scale in a column of its own.
    tidy = list(csv.DictReader(texts["csv"].splitlines()))
    found = [r for r in tidy if (r["group"], r["method"], r["form"], r["measure"])
             == (GROUPS[0], "bm25", "as it is", "lds")]  # fmt: skip
    assert [float(row["value"]) for row in found] == [one["value"]]
    assert sum(row["group"] in GROUPS for row in tidy) == sum(row["value"] is not None for row in rows)


def test_bold_is_the_best_and_its_ties_but_not_what_is_no_achievement(tmp_path: Path) -> None:
    rows = make_judged(groups=GROUPS[:1])
    for row in rows:
        if row["measure"] == "lds":
            row |= {"datamodel": {"value": 0.4, "low": 0.35, "high": 0.45}, "trackstar": {"value": 0.36}}.get(
                row["method"], {"value": min(row["value"], 0.3)}
            )
        if row["measure"] == "tail_patch":
            row["value"] = {"tail_patch": 0.9, "trak": 0.5, "less": 0.4}.get(row["method"], 0.1)
            row |= {"low": row["value"] - 0.05, "high": row["value"] + 0.05}
    (table,) = markdown_tables(write(tmp_path, rows, [])["md"])
    bold = {name: [row[1] for row in table[2:] if row[place].startswith("**")] for place, name in enumerate(table[0])}
    assert bold["LDS"] == ["TrackStar", "Datamodel"]  # not the ceiling, which is no row
    assert bold["Tail-patch"] == ["TRAK"]  # not the steps by which all are judged
    assert bold["CPU seconds"] == []
    assert "TracIn, every step" in bold["As it is MSE"] and "TracIn-CP" not in bold["As it is MSE"]


def test_ceiling_is_a_note(tmp_path: Path) -> None:
    rows = make_judged()
    texts = write(tmp_path, rows, [])
    assert "0.620 (fine_tuning-small-rte), 0.620 (fine_tuning-small-webnlg)" in texts["md"]
    assert "90% bootstrap interval" in texts["md"]
    assert not any(row[1].lower() == "ceiling" for table in markdown_tables(texts["md"]) for row in table)
    unknown = [row | {"value": None, "low": None, "high": None} if row["method"] == "ceiling" else row for row in rows]
    assert "each subset was trained on in one order" in write(tmp_path, unknown, [])["md"]


def test_one_group_stands_alone_with_the_wrong_labels(tmp_path: Path) -> None:
    text = write(tmp_path, make_judged(groups=GROUPS[:1]), make_mislabels())["md"]
    (table,) = markdown_tables(text)
    assert f"## Group {GROUPS[0]}\n" in text and "Averages" not in text
    assert table[0][-2:] == ["Wrong labels AUC", "Wrong labels Found at 20%"]


def test_what_a_scale_has_not_is_said(tmp_path: Path) -> None:
    texts = write(tmp_path, [], [])
    for form in ("md", "html", "tex"):
        assert "Scale nano has no retrainings on random subsets to judge attribution by." in texts[form]
        assert "Scale nano has no mislabelled data." in texts[form]
    assert texts["csv"] == "group,method,form,measure,value,low,high,n,bold\n"
    text = write(tmp_path, [], make_mislabels())["md"]
    (table,) = markdown_tables(text)
    assert [row[1] for row in table[2:]] == ["Random", "Loss", "TracIn-CP", "GPTfluence"]
    assert "has no mislabelled data" not in text


@pytest.mark.parametrize("groups", [GROUPS, GROUPS[:1], ()])
def test_tex_is_balanced(tmp_path: Path, groups: tuple[str, ...]) -> None:
    tex = write(tmp_path, make_judged(groups=groups), make_mislabels() if groups else [])["tex"]
    bare = re.sub(r"\\[&%$#_{}]", "", tex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert tex.count(r"\begin{table*}") == tex.count(r"\end{table*}") == {3: 4, 1: 1, 0: 1}[len(groups)]
    labels = re.findall(r"\\label\{(.*?)\}", tex)
    assert len(set(labels)) == len(labels) == tex.count(r"\caption")
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l+r+)\}\n(.*?)\\end\{tabular\}", bare, re.S):
        rows = [line for line in body.split("\n") if line.endswith(r"\\") and "multicolumn" not in line]
        assert {row.count("&") + 1 for row in rows} == {len(columns)}
    assert max(ord(c) for c in tex) < 128
