"""Pre-train the world's own small GPT-NeoX models, so that nano runs start from a model that knows something."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from gptfluence.errors import UserError
from gptfluence.io import atomic_folder, write_digests
from gptfluence.randomness import named_generator
from gptfluence.tasks.world import make_corpus

LOG = logging.getLogger("gptfluence")

END_OF_TEXT = "<|endoftext|>"
_SEQUENCE = 128  # tokens; documents are packed one behind the other
_WARM_UP = 0.05  # share of the steps in which the learning rate rises


def pretrain_model(spec: dict[str, Any], output: Path) -> None:
    """Write a folder with a tokenizer and a pre-trained model; the folder appears whole or not at all.

    Args:
        spec: see `design.Design.models`; a model of source ``world``.
        output: the folder.
    """
    # The models of a plan train side by side, one core each, and must not depend on how many there are.
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = spec["pretraining"]
    documents = make_corpus(spec["world_seed"], settings["sentences"])
    tokenizer = train_tokenizer(documents, settings["vocabulary"])
    torch.manual_seed(settings["seed"])
    model = GPTNeoXForCausalLM(make_config(spec, len(tokenizer)))
    stream = [i for ids in tokenizer(documents)["input_ids"] for i in (*ids, tokenizer.eos_token_id)]
    LOG.info("%d parameters, %d documents, %d tokens", model.num_parameters(), len(documents), len(stream))
    _train(model, torch.tensor(stream), spec, settings["seed"])

    with atomic_folder(output) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        write_digests(part)


def train_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: any text can be encoded, the end of the text has id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def make_config(spec: dict[str, Any], vocabulary: int) -> GPTNeoXConfig:
    """Return the architecture of Pythia at a nano size; input and output embeddings are shared."""
    return GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=spec["width"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        intermediate_size=4 * spec["width"],
        max_position_embeddings=spec["max_length"],
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def _train(model: GPTNeoXForCausalLM, stream: torch.Tensor, spec: dict[str, Any], seed: int) -> None:
    blocks = stream[: len(stream) // _SEQUENCE * _SEQUENCE].view(-1, _SEQUENCE)
    batch = max(1, spec["batch_tokens"] // _SEQUENCE)
    order = torch.cat(
        [
            torch.from_numpy(named_generator("pretraining", seed, epoch).permutation(len(blocks)))
            for epoch in range(spec["epochs"])
        ]
    )
    batches = order.split(batch)
    steps = len(batches)
    if steps < 2:
        raise UserError("dynamics.pretraining.sentences: the corpus is too small for two steps of pre-training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["learning_rate"], betas=(0.9, 0.95), weight_decay=0.01)
    warm = max(1, int(_WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min((t + 1) / warm, (steps - t) / (steps - warm)))
    began = told = time.monotonic()
    model.train()
    for step, rows in enumerate(batches):
        tokens = blocks[rows]
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if time.monotonic() - told > 10 or step == steps - 1:
            told = time.monotonic()
            LOG.info("step %d of %d, %.0f s, loss %.3f", step + 1, steps, told - began, loss.item())
