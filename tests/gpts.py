"""Tiny random GPTs of several architectures, which read streams."""

from __future__ import annotations

from typing import Any

import torch
from gptfluence.dynamics.packing import NAME
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
)

_GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2}
_KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "neox": (GPTNeoXConfig, {"intermediate_size": 64}),
    "llama": (LlamaConfig, _GROUPED),
    "gpt2": (GPT2Config, {}),
    "mistral": (MistralConfig, _GROUPED),
    "gemma2": (Gemma2Config, _GROUPED | {"head_dim": 8}),
    "gpt_oss": (GptOssConfig, _GROUPED | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}),
}


def tiny(kind: str, seed: int = 1, *, vocabulary: int, **changes: Any) -> PreTrainedModel:
    """A random GPT whose weights are large enough for every token to count. Llama's key heads serve two heads each."""
    sizes = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"max_position_embeddings": 96, "initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0}
    config, own = _KINDS[kind]
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config(**sizes | own | changes), attn_implementation=NAME).eval()
