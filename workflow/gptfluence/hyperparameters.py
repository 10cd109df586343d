"""The hyper-parameters of a plan under the names that the paper's Tables 5-9 give them."""

from __future__ import annotations

from typing import Any

from gptfluence.params import ModelEncoder, Params
from gptfluence.runs import Group

TRAINED = {"table_5": "instruction_tuning", "table_7": "fine_tuning"}
"""Tables of how GPTs are trained: in which scenario."""

FITTED = {"table_6": "gptfluence", "table_8": "gptfluence", "table_9": "simfluence"}
"""Tables of how simulators are fitted: methods of which kind."""

Columns = dict[str, dict[str, str]]
"""Values by column and hyper-parameter, as they are printed."""


def hyperparameters(params: Params, groups: list[Group], table: str) -> Columns:
    """Return this project's columns of one of Tables 5-9."""
    if table in FITTED:
        return _fitted(params, FITTED[table])
    scenario = TRAINED[table]
    found = [group for group in groups if group.scenario == scenario and group.metrics]
    models = {group.model for group in found}
    named = {_column(group, len(models) > 1): group for group in found}
    order = list(params.dynamics.models)
    return {
        name: _trained(params, group)
        for name, group in sorted(named.items(), key=lambda item: order.index(item[1].model))
    }


def _column(group: Group, several: bool) -> str:
    """Return what a group's column is called: of the mixture its model, else its task, with its model if need be."""
    if len(group.train_tasks) > 1:
        return group.model
    return f"{group.train_tasks[0]}, {group.model}" if several else group.train_tasks[0]


def _trained(params: Params, group: Group) -> dict[str, str]:
    run, optimizer = group.runs[0], params.dynamics.optimizer
    model = params.dynamics.models[group.model]
    lora = getattr(model, "lora", None)
    return {
        "Optimizer": "AdamW",
        "Adam beta": f"({optimizer.beta1:g}, {optimizer.beta2:g})",
        "Adam epsilon": f"{optimizer.epsilon:g}",
        "Weight decay": f"{optimizer.weight_decay:g}",
        "Learning rate": f"{run.learning_rate:g}",
        "Learning rate schedule": "Linear decay",
        "Warmup steps": "0",
        "Batch size": str(run.batch),
        "Max sequence length": str(model.max_length),
        "Training epochs": str(run.epochs),
        "Training steps": str(run.steps),
        "Precision": params.dynamics.precision,
        "Model": group.model,
        "Examples a run": str(run.draw * len(run.train_tasks)),
        "LoRA": f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}" if lora else "none",
    }


def _fitted(params: Params, kind: str) -> Columns:
    """Return each method of a kind, and those of its variants that Adam trains where it does not train the method."""
    columns: Columns = {}
    for name, method in params.simulators.methods.items():
        whole = method.model_dump()
        if whole["kind"] != kind:
            continue
        columns[name] = _of_method(params, whole)
        for variant, changed in params.variants.get(name, {}).items():
            if changed.get("adam"):
                columns[f"{name}, {variant}"] = _of_method(params, whole | changed)
    return columns


def _of_method(params: Params, settings: dict[str, Any]) -> dict[str, str]:
    adam = settings.get("adam")
    strengths = settings.get("strengths") or ()
    own = {
        "Form": settings.get("head") or settings.get("variant") or "",
        "Markov order": str(settings.get("order", 1)),
        "Aggregation over the batch": settings["aggregation"],
        "Without evidence": settings["shrink_to"],
    }
    if settings["kind"] == "gptfluence":
        own["Pre-trained encoder"] = _encoder(params, settings.get("features") or "text")
    if not adam:
        return {
            "L2 regularization lambda": f"chosen of {min(strengths):g} to {max(strengths):g}",
            "Optimizer": "exact solution",
            "Precision": "fp64",
            **own,
        }
    return {
        "L2 regularization lambda": f"{adam['weight_decay']:g}",
        "Optimizer": "Adam",
        "Adam beta": "(0.9, 0.999)",  # torch's own, which `simulators.adam` leaves as they are
        "Adam epsilon": "1e-08",
        "Learning rate": " or ".join(f"{rate:g}" for rate in adam["learning_rates"]),
        "Learning rate schedule": "Linear decay",
        "Warmup steps": str(adam["warmup"]),
        "Batch size": str(adam["batch"] or "all"),
        "Max training epochs": str(adam["epochs"]),
        "Early stopping": f"yes, {adam['patience']} epochs",
        "Precision": "fp32",
        "Seed": str(adam["seed"]),
        **own,
    }


def _encoder(params: Params, features: str) -> str:
    if features == "gradients":
        return "sketches of gradients"
    encoder = params.simulators.encoder if features == "text" else params.simulators.encoders[features]
    if isinstance(encoder, ModelEncoder):
        return f"the GPT itself, {encoder.pooling}"
    return f"{encoder.path.split('/')[-2] if encoder.source == 'package' else encoder.path}, {encoder.pooling}"
