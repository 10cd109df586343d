"""What the scores of attribution say, as tidy rows, and their averages over groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.paper.attribution import average_judged, read_judged, read_mislabels
from made_up_judged import GROUPS, make_judged, make_mislabels, write_judged, write_mislabels


def test_scaled_simulators_are_a_form_of_their_method_and_nulls_are_left_out(tmp_path: Path) -> None:
    written = make_judged()
    rows = read_judged(write_judged(tmp_path / "a.parquet", written))
    assert len(rows) == sum(row["value"] is not None for row in written) < len(written)
    forms = {(row["method"], row["form"]) for row in rows if row["measure"] == "skill"}
    assert {("tracin_cp", "as it is"), ("tracin_cp", "scaled"), ("bm25", "scaled")} <= forms
    assert ("bm25", "as it is") not in forms and not any(method.endswith("_scaled") for method, _ in forms)
    (skill,) = [r for r in rows if (r["group"], r["method"], r["form"], r["measure"])
                == (GROUPS[1], "tracin_cp", "as it is", "skill")]  # fmt: skip
    assert skill["value"] == -40.0


def test_averages_are_unweighted_means_with_the_interval_of_independent_groups(tmp_path: Path) -> None:
    rows = read_judged(write_judged(tmp_path / "a.parquet", make_judged()))
    averages = {(r["method"], r["form"], r["measure"]): r for r in average_judged(rows)}
    values = [r["value"] for r in rows if (r["method"], r["measure"]) == ("less", "lds")]
    lds = averages["less", "as it is", "lds"]
    assert len(values) == lds["n"] == 3 and lds["value"] == pytest.approx(np.mean(values))
    # Draws of three independent groups, each with a spread of 0.05, have a mean with a spread of 0.05 / sqrt(3).
    draws = np.random.default_rng(0).normal(0, 0.05, (3, 100_000)).mean(axis=0).std()
    assert lds["high"] - lds["value"] == pytest.approx(lds["value"] - lds["low"]) == pytest.approx(draws, rel=0.02)
    # Where one group alone has a measure, the average is its value.
    (mrr,) = [r for r in rows if (r["method"], r["measure"]) == ("less", "mrr")]
    found = averages["less", "as it is", "mrr"]
    assert (found["value"], found["n"]) == (pytest.approx(mrr["value"]), 1)
    assert averages["less", "as it is", "seconds"]["low"] is None


def test_a_method_that_lacks_a_group_has_no_average(tmp_path: Path) -> None:
    written = [r for r in make_judged() if (r["group"], r["method"]) != (GROUPS[2], "trak")]
    averages = average_judged(read_judged(write_judged(tmp_path / "a.parquet", written)))
    measures = {row["measure"] for row in averages if (row["method"], row["form"]) == ("trak", "as it is")}
    assert measures == {"mrr", "recall_at_10"}  # these are of the first group alone, for all methods
    assert any((row["method"], row["measure"]) == ("less", "lds") for row in averages)


def test_found_labels_are_told_of_one_fraction_under_the_names_of_the_tables(tmp_path: Path) -> None:
    rows = read_mislabels(write_mislabels(tmp_path / "m.parquet", make_mislabels()))
    found = {row["method"]: row["value"] for row in rows if row["measure"] == "found"}
    assert found == pytest.approx({"gptfluence": 0.18, "tracin_cp": 0.36, "loss": 0.32, "random": 0.2})
    assert {row["method"] for row in rows if row["measure"] == "auc"} == found.keys()
    others = [row for row in make_mislabels() if row["fraction"] != 0.2]
    assert {row["measure"] for row in read_mislabels(write_mislabels(tmp_path / "m.parquet", others))} == {"auc"}


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_judged, read_mislabels):
        with pytest.raises(UserError, match=r"none\.parquet"):
            read(tmp_path / "none.parquet")
