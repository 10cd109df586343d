"""How tables and figures name things, and in which order: the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable

TASKS = {"rte": "RTE", "sst2": "SST-2", "boolq": "BoolQ", "webnlg": "WebNLG", "wmt16_de_en": "WMT16 DE/EN"}
"""The paper's test tasks in its order."""

SCENARIOS = {"fine_tuning": "fine-tuning", "instruction_tuning": "instruction tuning"}
METRICS = {"loss": "loss", "bleu": "BLEU", "rouge_l": "ROUGE-L"}
PAPER_MODELS = {"pythia-410m": "Pythia-410M", "pythia-1b": "Pythia-1B", "pythia-2.8b": "Pythia-2.8B"}

MEASURES = {
    "all_steps_mse": "All-steps MSE",
    "all_steps_mae": "All-steps MAE",
    "final_step_spearman": "Final-step Spearman",
    "skill": "Skill",
    "across_run_correlation": "Across-run correlation",
}
HIGHER_IS_BETTER = ("final_step_spearman", "skill", "across_run_correlation")

METHODS = {
    "persistence": "Persistence",
    "global_ar1": "Global AR(1)",
    "mean_curve": "Mean curve",
    "simfluence": "Simfluence (linear)",
    "simfluence_additive": "Simfluence (additive)",
    "simfluence_multiplicative": "Simfluence (multiplicative)",
    "gptfluence": "GPTfluence (bilinear)",
    "gptfluence_mlp": "GPTfluence (MLP head)",
}
"""Every method of the default params.yaml, in the order of the tables' rows."""


def sort_methods(names: Iterable[str]) -> list[str]:
    """Order methods as the tables do: known ones first, then a user's own by name."""
    return _sort(names, METHODS)


def sort_tasks(names: Iterable[str]) -> list[str]:
    """Order tasks as the paper does, then a user's own by name."""
    return _sort(names, TASKS)


def _sort(names: Iterable[str], known: dict[str, str]) -> list[str]:
    order = list(known)
    return sorted(set(names), key=lambda name: (order.index(name) if name in known else len(order), name))
