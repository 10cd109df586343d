"""Blocks of printed numbers."""

from gptfluence.paper.tables.frame import make_frame
from gptfluence.paper.tables.layout import make_block, make_notes
from made_up import content_of, make_noise, make_scores


def test_the_papers_rows_stand_below_ours_of_the_same_model() -> None:
    scores = make_scores(models=("pythia-410m", "nano-0.2m"))
    block = make_block(
        make_frame("table_1", content_of("table_1"), scores), "all_steps_mse", ("loss",), ["pythia-410m", "nano-0.2m"]
    )
    assert [(line.section, line.method) for line in block.lines[:10]] == [
        ("pythia-410m", "Mean curve"),
        ("pythia-410m", "Simfluence (linear)"),
        ("pythia-410m", "Simfluence (additive)"),
        ("paper, Pythia-410M", "Simfluence"),
        ("pythia-410m", "GPTfluence (bilinear)"),
        ("paper, Pythia-410M", "GPTfluence"),
        ("pythia-410m", "my_method"),
        # Nothing of ours is akin to these.
        ("paper, Pythia-410M", "TracIn-CP (10-steps)"),
        ("paper, Pythia-410M", "TracIn-CP (all-steps)"),
        ("paper, Pythia-410M", "Grad-Dot"),
    ]
    assert block.lines[3].cells[0] == "1.477 (0.274)"
    assert [line.section for line in block.lines[10:15]] == ["nano-0.2m"] * 5
    apart = block.lines[15:]
    assert [line.section for line in apart] == ["paper, Pythia-1B"] * 5 + ["paper, Pythia-2.8B"] * 5
    assert [line.rule_above for line in apart] == [True, *[False] * 9]


def test_published_gradient_methods_stand_below_replays_of_ours() -> None:
    scores = make_scores(models=("pythia-410m",), methods=("tracin_adamw", "grad_dot", "tracin", "tracin_cp"))
    frame = make_frame("table_1", content_of("table_1"), scores)
    lines = make_block(frame, "all_steps_mse", ("loss",), ["pythia-410m"]).lines[:9]
    assert [line.method for line in lines] == [
        "TracIn-CP (checkpoints)",
        "TracIn-CP (10-steps)",
        "TracIn (every step)",
        "TracIn (every step, AdamW's update)",
        "TracIn-CP (all-steps)",
        "Grad-Dot (final)",
        "Grad-Dot",
        "Simfluence",
        "GPTfluence",
    ]
    assert lines[1].cells[0] == "1.156 (0.838)" and lines[1].paper


def test_what_gradients_are_given_and_what_is_wrong_with_the_papers_is_noted() -> None:
    for table, scenario, published in (("table_1", "instruction_tuning", True), ("table_2", "fine_tuning", False)):
        for methods in (("tracin", "gptfluence"), ("gptfluence",)):
            frame = make_frame(table, content_of(table), make_scores(scenarios=(scenario,), methods=methods))
            notes = " ".join(make_notes(frame, scenario, "nano"))
            assert ("at the weights of the run that they predict" in notes) == ("tracin" in methods)
            assert ("artefacts of the published code" in notes) == published


def test_the_noise_ceiling_stands_below_all_methods_and_is_no_rival() -> None:
    scores = make_scores() + make_noise()
    frame = make_frame("table_3", content_of("table_3"), scores)
    block = make_block(frame, "all_steps_mse", ("bleu", "rouge_l"), ["nano-0.2m"])
    lines = [line for line in block.lines if line.section == "nano-0.2m"]
    assert lines[-1].method == "Noise ceiling" and [line.method for line in lines].count("Noise ceiling") == 1
    assert not any(lines[-1].bold) and lines[3].method == "GPTfluence (bilinear)" and lines[3].bold[0]
    heads = [head for metric, head in block.columns if metric == "BLEU"]
    assert heads[-3:] == ["Skill", "Share of explainable", "Across-run correlation"]
    cells = dict(zip(block.columns, lines[-1].cells, strict=True))
    assert cells["BLEU", "WebNLG"] == cells["BLEU", "Average"] == "0.0100"
    assert cells["BLEU", "Skill"] == "0.250"
    assert cells["BLEU", "Share of explainable"] == cells["ROUGE-L", "Skill"] == "–"
    assert dict(zip(block.columns, lines[3].cells, strict=True))["BLEU", "Share of explainable"] == "0.125"
    notes = " ".join(make_notes(frame, "instruction_tuning", "nano"))
    assert "3 held-out runs" in notes and "Noise ceiling: 2 of these runs were trained twice" in notes


def test_without_repeats_nothing_is_said_of_noise() -> None:
    frame = make_frame("table_3", content_of("table_3"), make_scores())
    block = make_block(frame, "all_steps_mse", ("bleu",), ["nano-0.2m"])
    assert "Noise ceiling" not in [line.method for line in block.lines]
    assert ("BLEU", "Share of explainable") not in block.columns
    assert "Noise" not in " ".join(make_notes(frame, "instruction_tuning", "nano"))
