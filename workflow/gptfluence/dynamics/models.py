"""Causal language models from four places behind one function; nothing from a model is executed."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gptfluence.dynamics import packing
from gptfluence.errors import UserError
from gptfluence.io import check_digests


def load_model(spec: dict[str, Any], device: torch.device) -> PreTrainedModel:
    """Load a model in fp32.

    Args:
        spec: a row of ``dynamics.models`` with, for the world's own models, the ``folder`` of the pre-trained weights.

    Raises:
        UserError: the model is missing, has no safetensors weights, cannot read streams, or the hub is out of reach.
    """
    from transformers import AutoModelForCausalLM

    name, options = _location(spec)
    weights = {} if spec["source"] == "gguf" else {"use_safetensors": True}
    with _loading(spec, name):
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, trust_remote_code=False, attn_implementation=packing.NAME, **weights, **options
        )
    known = inspect.signature(model.forward).parameters
    missing = {"position_ids", "logits_to_keep"} - known.keys()
    if missing:
        raise UserError(f"model {name}: its class takes no {', '.join(sorted(missing))}, so it cannot be used")
    model = model.to(device)
    if why := _reads_no_streams(model, device):
        raise UserError(f"model {name}: {why}")
    return model


def load_tokenizer(spec: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        UserError: it is missing, has no end-of-text token, or the hub is out of reach.
    """
    from transformers import AutoTokenizer

    name, options = _location(spec)
    with _loading(spec, name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    if tokenizer.eos_token_id is None:
        raise UserError(f"model {name}: its tokenizer has no end-of-text token, which every target ends with")
    return tokenizer


@contextlib.contextmanager
def _loading(spec: dict[str, Any], name: str) -> Iterator[None]:
    """Turn the library's many errors into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, IndexError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        if reason.strip("'") == packing.NAME:
            reason = "its class has no place for another attention than its own"
        if spec["source"] == "hub":
            raise UserError(
                f"model {name} (revision {spec['revision']}): cannot be loaded from the hub; without a network, "
                f"download it elsewhere and use source: folder. The reason given: {reason[:300]}"
            ) from None
        raise UserError(f"model {name}: cannot be loaded: {reason[:300]}") from None


@torch.no_grad()
def _reads_no_streams(model: PreTrainedModel, device: torch.device) -> str | None:
    """Say why a model cannot read sequences one behind the other: each must give what it gives by itself."""
    model.eval()
    if any(getattr(module, "rope_type", None) in ("dynamic", "longrope") for module in model.modules()):
        return "its positions depend on how much is read at once, so it cannot be used"
    sequences = [[1, 2, 3, 4, 5], [3, 1, 2], [2, 2, 4, 1]]
    pairs = [(tokens, [0]) for tokens in sequences]
    try:
        together = packing.read(model, packing.Stream.of([packing.Pack.of(pairs, range(3))], device))
        model.set_attn_implementation("eager")
        alone = torch.stack([model(input_ids=torch.tensor([s], device=device)).logits[0, -1] for s in sequences])
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"its class cannot be used: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        model.set_attn_implementation(packing.NAME)
    if not torch.isfinite(together).all():
        return "its outputs are not finite, so its weights are damaged or its training diverged"
    if not torch.allclose(together, alone, rtol=1e-4, atol=1e-4 * alone.abs().max().item()):
        return "its class mixes sequences that stand one behind the other, so it cannot be used"
    return None


def add_adapters(model: PreTrainedModel, lora: dict[str, Any] | None) -> torch.nn.Module:
    """Return the model with trainable low-rank adapters in place of full training, where `lora` asks for them."""
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=list(lora["targets"]),
        task_type="CAUSAL_LM",
    )
    names = [name.split(".") for name, _ in model.named_modules()]
    unknown = [target for target in lora["targets"] if not any(parts[-1] == target for parts in names)]
    if unknown:
        raise UserError(f"lora.targets {unknown}: the model has no layers of that name")
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"lora.targets {list(lora['targets'])}: {' '.join(str(error).split())[:300]}") from None


def compile_layers(model: torch.nn.Module) -> None:
    """Have each block of the model compiled when it is first called; the blocks are alike, so that happens once."""
    blocks = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    for block in blocks[0] if blocks else [model]:
        block.compile(dynamic=True)


def context_length(spec: dict[str, Any], model: torch.nn.Module) -> int:
    """Return the tokens that fit: the setting, or the model's own limit where that is lower."""
    limit = getattr(model.config, "max_position_embeddings", None) or spec["max_length"]
    return min(spec["max_length"], limit)


def _location(spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what from_pretrained takes for a model's source."""
    if spec["source"] == "hub":
        return spec["path"], {"revision": spec["revision"]}
    if spec["source"] == "gguf":
        path = Path(spec["path"])
        if spec.get("package"):
            found = importlib.util.find_spec(spec["package"])
            if found is None or not found.submodule_search_locations:
                raise UserError(f"package {spec['package']}: not installed; it holds the model file {path}")
            path = Path(found.submodule_search_locations[0]) / path
        if not path.is_file():
            raise UserError(f"{path}: no such model file")
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    folder = Path(spec["folder"] if spec["source"] == "world" else spec["path"])
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model folder (it has no config.json)")
    if spec["source"] == "world":
        check_digests(folder)
    return str(folder), {"local_files_only": True}


def pick_device() -> torch.device:
    """Return the first GPU where there is one, else the CPU with one thread (runs share the cores)."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")
