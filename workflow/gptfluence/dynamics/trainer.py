"""What starts runs, for the job that trains them and for whatever trains one again: the same, to the last bit."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import torch

from gptfluence.dynamics.checkpoints import Training
from gptfluence.dynamics.collect import Settings
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.gangs import can_join
from gptfluence.dynamics.generate import Sampling
from gptfluence.dynamics.inputs import Inputs
from gptfluence.dynamics.models import add_adapters, compile_layers, context_length, load_model, load_tokenizer
from gptfluence.rates import Shape, rate_factor


class Trainer:
    """A model, and all that its runs share.

    Args:
        spec: see `design.Design.gang_spec`.
        device: on which all is computed.

    Attributes:
        base: the model as it is loaded.
        inputs: what the runs read.
        settings: how much is computed at once, and how texts are sampled.
        joined: whether runs are computed as one.
    """

    def __init__(self, spec: dict[str, Any], device: torch.device) -> None:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed one
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._spec = spec
        self.base = load_model(spec["model"], device)
        tokenizer = functools.cache(lambda: load_tokenizer(spec["model"]))
        budget = Budget.of(spec["evaluation_tokens"], self.base.config.vocab_size)
        self.inputs = Inputs(spec, tokenizer, context_length(spec["model"], self.base), budget, device)
        generation = spec["generation"]
        self.settings = Settings(
            budget=budget,
            text_tokens=generation["batch_tokens"],
            sampling=Sampling(
                temperature=generation["temperature"],
                top_p=generation["top_p"],
                end=self.inputs.end,
            ),
            autocast={"fp32": None, "bf16": torch.bfloat16}[spec["precision"]],
        )
        # What is compiled is compiled as it is.
        self.joined = not spec["compile"] and can_join(self.base, spec["model"]["lora"], device)

    def start(self, run: dict[str, Any], model: torch.nn.Module) -> Training:
        """Return a run before its first step.

        Args:
            model: the base model or a copy of it, which the run changes.
        """
        torch.manual_seed(run["init_seed"])
        model = add_adapters(model, self._spec["model"]["lora"])
        if self._spec["compile"]:
            compile_layers(model)
        steps, size = run["steps"] + 1, len(self.inputs.tests)
        return Training(
            model,
            *make_optimizer(
                model, run["learning_rate"], run["steps"], self._spec["optimizer"], run["schedule"], run["warmup"]
            ),
            losses=np.full((steps, size), np.nan, np.float32),
            texts=np.full((2, steps, size), np.nan, np.float32),
        )


def make_optimizer(
    model: torch.nn.Module,
    learning_rate: float,
    steps: int,
    settings: dict[str, float],
    schedule: Shape = "linear",
    warmup: float = 0.0,
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW and what its rate does: that of update t (from 0) is `learning_rate` times `rates.rate_factor`."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for _, p in trained if p.ndim >= 2]
    others = [p for _, p in trained if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["epsilon"],
        fused=True,
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: rate_factor(t, steps, schedule, warmup))
