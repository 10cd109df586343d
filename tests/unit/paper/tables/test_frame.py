"""The tidy frame: our scores, the paper's, and which are bold."""

from pathlib import Path

from gptfluence.paper.tables.frame import make_frame
from made_up import content_of, make_scores, markdown_tables, write


def test_bold_marks_the_best_and_those_in_its_interval(tmp_path: Path) -> None:
    blocks = markdown_tables(write(tmp_path, "table_1", make_scores())["md"])
    bold = [[row[1] for row in rows[2:] if row[2].startswith("**")] for rows in blocks]
    # Errors: gptfluence (0.3) is best, mean_curve (0.4) lies in its interval, my_method (0.5) does not.
    assert bold[0] == bold[1] == ["Mean curve", "GPTfluence (bilinear)"]
    # Rank correlation: the largest, simfluence_additive (0.7), and simfluence (0.6).
    assert bold[2] == ["Simfluence (linear)", "Simfluence (additive)"]


def test_without_an_interval_only_the_best_is_bold() -> None:
    rows = [row | {"low": None, "high": None} for row in make_scores()]
    frame = make_frame("table_1", content_of("table_1"), rows)
    marked = [r["method"] for r in frame if r["bold"] and (r["task"], r["measure"]) == ("rte", "all_steps_mse")]
    assert marked == ["gptfluence"]
