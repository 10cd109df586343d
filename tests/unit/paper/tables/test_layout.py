"""Blocks of printed numbers."""

from gptfluence.paper.tables.frame import make_frame
from gptfluence.paper.tables.layout import make_block
from made_up import content_of, make_scores


def test_the_papers_rows_stand_below_ours_of_the_same_model() -> None:
    scores = make_scores(models=("pythia-410m", "nano-0.2m"))
    block = make_block(
        make_frame("table_1", content_of("table_1"), scores), "all_steps_mse", ("loss",), ["pythia-410m", "nano-0.2m"]
    )
    assert [(line.model, line.method) for line in block.lines[:7]] == [
        ("pythia-410m", "Mean curve"),
        ("pythia-410m", "Simfluence (linear)"),
        ("pythia-410m", "Simfluence (additive)"),
        ("paper, Pythia-410M", "Simfluence"),
        ("pythia-410m", "GPTfluence (bilinear)"),
        ("paper, Pythia-410M", "GPTfluence"),
        ("pythia-410m", "my_method"),
    ]
    assert block.lines[3].cells[0] == "1.477 (0.274)"
    assert [line.model for line in block.lines[7:12]] == ["nano-0.2m"] * 5
    apart = block.lines[12:]
    assert [line.model for line in apart] == ["paper, Pythia-1B"] * 2 + ["paper, Pythia-2.8B"] * 2
    assert [line.rule_above for line in apart] == [True, False, False, False]
