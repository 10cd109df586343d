"""Shapes and places on a device that is not the CPU: `meta` has no numbers, and refuses what lies elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gptfluence.dynamics import generate
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.gangs import Gang
from gptfluence.dynamics.generate import Sampling, Texts
from gptfluence.dynamics.packing import Pack, Stream, mean_losses, token_losses
from gpts import tiny
from transformers import PreTrainedModel

META = torch.device("meta")
VOCABULARY = 70


@pytest.fixture(params=["neox", "llama"])
def models(request: pytest.FixtureRequest) -> list[PreTrainedModel]:
    with META:
        return [tiny(request.param, vocabulary=VOCABULARY) for _ in range(2)]


PACK = Pack.of([([1, 2, 3], [4, 5]), ([1] * 20, [2] * 3)], range(2))


def test_update_and_evaluation(models: list[PreTrainedModel]) -> None:
    stream = Stream.of([PACK, PACK], META)
    losses = token_losses(Gang(models).reader([0, 1]), stream)
    assert losses.device == META and losses.shape == (10,)
    losses.mean().backward()
    for model in models:
        assert all(p.grad is not None and p.grad.device == META and p.grad.shape == p.shape for p in model.parameters())
    with torch.inference_mode():
        assert mean_losses(Gang(models).reader([0, 1]), stream).shape == (4,)


def test_sampling(models: list[PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    def choose(logits: torch.Tensor, uniform: torch.Tensor, *_: float) -> torch.Tensor:
        assert logits.device == uniform.device == META and logits.shape == (len(uniform), VOCABULARY)
        rows.append(len(uniform))
        return torch.ones(len(uniform), dtype=torch.long)  # where there are no numbers, none can be drawn by them

    monkeypatch.setattr(generate, "choose_tokens", choose)
    texts = Texts([[1, 2, 3], [4] * 9], np.zeros((2, 5)), [5, 2])
    sampling = Sampling(temperature=1.0, top_p=0.9, end=0)
    found = generate.generate(Gang(models).reader, [texts, texts], sampling, Budget.of(64, VOCABULARY), META)
    assert found == [[[1] * 5, [1] * 2]] * 2
    assert rows == [4, 4, 2, 2, 2]
