"""What the paper's figures of curves show (Figures 2, 8, 10-30): data, so that a changed row redraws one figure."""

from __future__ import annotations

from dataclasses import dataclass

PUBLISHED = ("mean_curve", "simfluence", "gptfluence", "gradient_response")
"""Methods of most figures: the paper's, a curve that knows nothing of the training examples, and ours."""

REPLAYS = (*PUBLISHED, "tracin_cp", "grad_dot")
"""Besides, those that are given gradients at the weights of the run that they predict."""

UNSEEN = ("mean_curve", "predicted_curve", "gptfluence", "gradient_response")
"""Methods of the figures of unseen data: the paper's one; of an unseen test the mean curve is not known."""

ALL_TASKS = ""
"""Stands for each task with a metric."""


@dataclass(frozen=True)
class Curves:
    """What one figure of curves shows.

    Attributes:
        scenarios: the first of them that the plan has is shown.
        panels: (metric, task) each. A task that the plan lacks is replaced by another with that metric.
        model: the paper's.
        otherwise: which model stands for it where the plan lacks it: the middle or the largest one.
        setting: seen, unseen_train, unseen_test or unseen_both.
        methods: those drawn; beside them the user's own.
        examples: test examples of each panel; None: as many as `paper.example_curves` says.
        across: panels stand side by side, their examples one below the other; else the other way round.
    """

    scenarios: tuple[str, ...]
    panels: tuple[tuple[str, str], ...]
    model: str = "pythia-410m"
    otherwise: str = "middle"
    setting: str = "seen"
    methods: tuple[str, ...] = PUBLISHED
    examples: int | None = 3
    across: bool = False

    @property
    def file(self) -> str:
        """Which of the scores' files holds these curves, as `design` calls it."""
        return "unseen_curves" if self.setting in ("unseen_test", "unseen_both") else "curves"


def _tuned(metric: str, model: str = "pythia-410m") -> Curves:
    """Return what a figure of instruction tuning shows: one of Figures 10-15."""
    methods = REPLAYS if metric == "loss" else PUBLISHED
    otherwise = "middle" if model == "pythia-410m" else "largest"
    return Curves(("instruction_tuning",), ((metric, ALL_TASKS),), model, otherwise, methods=methods)


def _fine(metric: str, task: str = ALL_TASKS, setting: str = "seen") -> Curves:
    """Return what a figure of fine-tuning shows: one of Figures 16-30."""
    methods = PUBLISHED if setting == "seen" else UNSEEN
    return Curves(("fine_tuning",), ((metric, task),), setting=setting, methods=methods)


_UNSEEN_SETTINGS = ("unseen_test", "unseen_train", "unseen_both")

CURVES = {
    "figure_2": Curves(
        ("instruction_tuning", "fine_tuning"),
        (("loss", "rte"), ("loss", "wmt16_de_en"), ("bleu", "webnlg"), ("rouge_l", "wmt16_de_en")),
        model="", otherwise="largest", methods=REPLAYS, examples=None, across=True,
    ),
    "figure_8": Curves(
        ("fine_tuning",), (("loss", "rte"), ("bleu", "webnlg")), setting="unseen_train", methods=UNSEEN, examples=2,
        across=True,
    ),
    "figure_10": _tuned("loss"),
    "figure_11": _tuned("loss", "pythia-1b"),
    "figure_12": _tuned("bleu"),
    "figure_13": _tuned("bleu", "pythia-1b"),
    "figure_14": _tuned("rouge_l"),
    "figure_15": _tuned("rouge_l", "pythia-1b"),
    "figure_16": _fine("loss"),
    "figure_17": _fine("bleu"),
    "figure_18": _fine("rouge_l"),
    **{
        f"figure_{19 + 3 * place + i}": _fine(metric, task, setting)
        for place, (metric, task) in enumerate(
            [("loss", "rte"), ("loss", "webnlg"), ("bleu", "webnlg"), ("rouge_l", "webnlg")]
        )
        for i, setting in enumerate(_UNSEEN_SETTINGS)
    },
}  # fmt: skip
"""Every figure of curves."""
