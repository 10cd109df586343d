"""The pipeline at a tiny scale, for tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


_VARIANTS = ("order_2", "every_2_steps_held", "gpt_features", "each_task", "batch_sum")


def make_tiny(raw: dict[str, Any]) -> dict[str, Any]:
    """Turn the shipped params.yaml into a tiny plan of the same form."""
    tiny = {"source": "world", "layers": 1, "width": 32, "heads": 2, "epochs": 1, "batch_tokens": 1024}
    raw["dynamics"]["models"] = {"tiny": tiny | {"learning_rate": 3e-3, "max_length": 256, "runs_per_job": 4}}
    raw["dynamics"]["pretraining"] |= {"sentences": 400, "vocabulary": 500}
    raw["dynamics"]["generation"]["max_new_tokens"] = 12
    methods = raw["simulators"]["methods"]
    for name in ("simfluence_additive", "simfluence_multiplicative"):
        methods.pop(name)
    methods["gptfluence_mlp"]["adam"] |= {"epochs": 3, "learning_rates": [1e-3]}
    for name in ("simfluence", "gptfluence", "gptfluence_gradients"):
        methods[name]["strengths"] = [0.1, 10.0]
    variants = raw["scores"]["variants"]
    variants.pop("simfluence")
    variants["gptfluence"] = {name: variants["gptfluence"][name] for name in _VARIANTS}
    for name in ("simfluence", "gptfluence"):
        raw["scores"]["convergence"][name]["adam"] |= {"epochs": 3, "batch": 64, "warmup": 2}
    raw["attribution"] |= {"checkpoints": 3, "kernel_checkpoints": 2, "projection": 4, "replays": []}
    raw["scores"]["bootstrap_samples"] = 50
    runs = {"fit": 2, "validate": 1, "held_out": 2, "unseen": 1}
    settings = {"models": ["tiny"], "draw": 8, "batch": 4, "epochs": 1, "learning_rate": 1e-3, "runs": runs}
    raw["scale"] = "tiny"
    raw["scales"] = {
        "tiny": {
            "source": "world",
            "pool": 12,
            "unseen_pool": 12,
            "test": 4,
            "scenarios": {
                "fine_tuning": settings | {"train_tasks": ["rte"], "test_tasks": ["rte"]},
                "instruction_tuning": settings
                | {"train_tasks": ["rte", "webnlg", "cnn_dailymail"], "test_tasks": ["rte", "webnlg"]}
                | {"runs": runs | {"unseen": 0}},
            },
        }
    }
    return raw


def make_whole(raw: dict[str, Any]) -> dict[str, Any]:
    """Turn the shipped params.yaml into a tiny plan of all stages: with attribution, mislabelled data and choices."""
    replays = raw["attribution"]["replays"]
    whole = make_tiny(raw)
    whole["attribution"]["replays"] = replays
    plan = whole["scales"]["tiny"]
    plan["scenarios"]["fine_tuning"] |= {"subsets": 3, "ceiling": True}
    plan["scenarios"]["fine_tuning"]["schedules"] = {
        **{"runs": {"fit": 1, "validate": 1, "held_out": 2}, "settings": {"small": {"batch": 2, "warmup": 0.3}}},
    }
    plan["mislabelled"] = {
        **{"model": "tiny", "task": "sst2", "pool": 8, "test": 3, "flipped": 0.4, "seed": 1, "draw": 4},
        **{"batch": 4, "epochs": 1, "learning_rate": 1e-3, "runs": {"fit": 2, "validate": 1}},
        **{"retrainings": 1, "random_seeds": 2, "fractions": [0.25, 0.5]},
    }
    plan["choices"] = {
        **{"model": "tiny", "tasks": ["rte"], "budget": 4, "splits": 1, "random": 2},
        **{"simulators": ["gradient_response", "gptfluence"], "scores": ["grad_dot"]},
    }
    return whole


def heed_interrupts() -> None:
    """Undo, in a child, what a shell does to commands in its background: to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def snakemake(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the checkout's Snakefile on the params.yaml, data/ and results/ of another folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(ROOT / "workflow/profiles/local"), "--cores", "2"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=folder, **options)
