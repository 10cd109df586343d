"""How tables and figures name things, and in which order: the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable

TASKS = {"rte": "RTE", "sst2": "SST-2", "boolq": "BoolQ", "webnlg": "WebNLG", "wmt16_de_en": "WMT16 DE/EN"}
"""The paper's test tasks in its order."""

SETTINGS = {
    "seen": "seen data",
    "unseen_train": "unseen training examples",
    "unseen_test": "unseen tests",
    "unseen_both": "both unseen",
    "schedule_seen": "fitted on",
    "schedule_unseen": "not fitted on",
}
SCENARIOS = {"fine_tuning": "fine-tuning", "instruction_tuning": "instruction tuning"}
METRICS = {"loss": "loss", "bleu": "BLEU", "rouge_l": "ROUGE-L"}
PAPER_MODELS = {"pythia-410m": "Pythia-410M", "pythia-1b": "Pythia-1B", "pythia-2.8b": "Pythia-2.8B"}

MEASURES = {
    "all_steps_mse": "All-steps MSE",
    "all_steps_mae": "All-steps MAE",
    "final_step_spearman": "Final-step Spearman",
    "skill": "Skill",
    "explained_share": "Share of explainable",
    "across_run_correlation": "Across-run correlation",
    "lds": "LDS",
    "tail_patch": "Tail-patch",
    "mrr": "MRR",
    "recall_at_10": "Recall@10",
    "seconds": "CPU seconds",
    "accuracy": "Test accuracy",
    "found": "Wrong labels found",
}
LOWER_IS_BETTER = ("all_steps_mse", "all_steps_mae", "seconds")

METHODS = {
    "persistence": "Persistence",
    "global_ar1": "Global AR(1)",
    "mean_curve": "Mean curve",
    "predicted_curve": "Predicted mean curve",
    "time_curve": "Mean curve in optimiser time",
    "tracin_cp": "TracIn-CP (checkpoints)",
    "tracin": "TracIn (every step)",
    "tracin_adamw": "TracIn (every step, AdamW's update)",
    "grad_dot": "Grad-Dot (final)",
    "simfluence": "Simfluence (linear)",
    "simfluence_additive": "Simfluence (additive)",
    "simfluence_multiplicative": "Simfluence (multiplicative)",
    "gptfluence": "GPTfluence (bilinear)",
    "gptfluence_gradients": "GPTfluence (gradient features)",
    "gptfluence_mlp": "GPTfluence (MLP head)",
    "gradient_response": "Gradient response (ours)",
}
"""Every simulated method of the default params.yaml, in the order of the tables' rows."""

REPLAYED = ("tracin_cp", "tracin", "tracin_adamw", "grad_dot")
"""Those of them that take gradients at the weights of the very runs that they predict."""

ATTRIBUTION = {
    "Trivial": {"random": "Random", "length": "Length", "loss": "Loss", "mean_curve": "Mean curve"},
    "Text": {"bm25": "BM25", "encoder_cosine": "Encoder cosine"},
    "Gradients": {
        "grad_dot": "Grad-Dot",
        "grad_cosine": "Gradient cosine",
        "tracin_cp": "TracIn-CP",
        "less": "LESS",
        "trak": "TRAK",
        "ekfac": "EK-FAC",
    },
    "TrackStar": {
        "trackstar": "TrackStar",
        "trackstar_no_correction": "without optimiser correction",
        "trackstar_no_hessian": "without Hessian",
        "trackstar_no_mix": "without mixing",
        "trackstar_no_norm": "without unit norm",
        "trackstar_no_projection": "without projection",
    },
    "Replayed": {
        "grad_dot_replayed": "Grad-Dot, own weights",
        "tracin_cp_replayed": "TracIn-CP, own weights",
        "tracin": "TracIn, every step",
        "tracin_adamw": "TracIn, AdamW's update",
    },
    "Fitted": {"datamodel": "Datamodel", "gptfluence": "GPTfluence"},
    "Measured": {"tail_patch": "Tail-patch"},
}
"""Every method that is judged as attribution, by family, in the order of the rows."""


def sort_methods(names: Iterable[str]) -> list[str]:
    """Order methods as the tables do: known ones first, then a user's own by name."""
    return _sort(names, METHODS)


def sort_tasks(names: Iterable[str]) -> list[str]:
    """Order tasks as the paper does, then a user's own by name."""
    return _sort(names, TASKS)


def list_attribution(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (method, family, name in print) of methods of attribution in their order, unknown ones last by name."""
    families = {method: (family, label) for family, methods in ATTRIBUTION.items() for method, label in methods.items()}
    return [(name, *families.get(name, ("Other", name))) for name in _sort(names, dict.fromkeys(families, ""))]


def _sort(names: Iterable[str], known: dict[str, str]) -> list[str]:
    order = list(known)
    return sorted(set(names), key=lambda name: (order.index(name) if name in known else len(order), name))
