"""Random GPTs that benchmarks share."""

from __future__ import annotations

from typing import Any


def random_gpt(layers: int, width: int, heads: int, vocabulary: int, **options: Any) -> Any:
    """Return a GPT-NeoX in evaluation mode, on one thread; `options`: of its configuration."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        **options,
    )
    return GPTNeoXForCausalLM(config).eval()
