"""Encodes the texts of all examples with a frozen sentence encoder: GPTfluence's features (paper, section 3.2)."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError

from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet

BATCH = 32
_POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}

log = logging.getLogger("gptfluence")


def encode_examples(spec: dict[str, Any], output: Path) -> None:
    """Encode prompt and target together, for every example of the prepared tasks.

    Args:
        spec: encoder (see `encode_texts`), tasks ({task: path}), formats (which
            prompts).
        output: the Parquet file to write: task, part, example, format, vector; in the order of the tasks'
            files.

    Raises:
        UserError: a task or the encoder cannot be read.
    """
    columns = ["part", "example", "format", "prompt", "target"]
    tables = []
    for task, path in spec["tasks"].items():
        table = read_parquet(path, columns)
        tables.append(table.add_column(0, "task", pa.array([task] * len(table), pa.string())))
    whole = pa.concat_tables(tables).combine_chunks()
    whole = whole.filter(np.isin(whole["format"].to_pylist(), spec["formats"]))
    texts = [
        f"{prompt} {target}"  # as the GPT reads them
        for prompt, target in zip(whole["prompt"].to_pylist(), whole["target"].to_pylist(), strict=True)
    ]
    vectors = encode_texts(texts, spec["encoder"])
    log.info("encoded %d examples, %d different texts, width %d", len(texts), len(set(texts)), vectors.shape[1])
    table = pa.table(
        {
            "task": whole["task"].combine_chunks().dictionary_encode(),
            "part": whole["part"].combine_chunks().dictionary_encode(),
            "example": whole["example"],
            "format": whole["format"].combine_chunks().dictionary_encode(),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )
    write_parquet(output, table, spec)


def encode_texts(texts: list[str], encoder: dict[str, Any]) -> NDArray[np.float32]:
    """Encode texts: without dropout, without normalisation, cut at the encoder's own maximal length.

    Args:
        texts: equal ones are encoded once.
        encoder: source (package: a folder inside an installed package, whose name is the first part of
            `path`; folder; hub, with a pinned revision; or gguf: a file, in an installed `package` if one is named),
            path, revision, pooling (mean of the tokens' vectors, or cls: the first, or last: that of the last token,
            the only one that has read the whole text where the encoder is a causal language model).

    Returns:
        [texts, width].

    Raises:
        UserError: the encoder is not there.
    """
    folder, gguf = _location(encoder)

    import torch  # heavy, and so is what follows
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    # Neither pickled weights nor code from the folder; nothing is looked up on the network.
    safe = {"trust_remote_code": False, "local_files_only": True} | ({"gguf_file": gguf} if gguf else {})
    weights = {} if gguf else {"use_safetensors": True}
    try:
        transformer = Transformer(
            str(folder),
            model_kwargs=safe | weights,
            config_kwargs=safe,
            processor_kwargs=safe,
            # The texts as they are, also where a tokenizer has a template for chats.
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"simulators.encoder: {folder} holds no usable encoder ({reason})") from None
    if transformer.tokenizer.pad_token is None:  # generative models as encoders; padding is masked out anyway
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=_POOLING[encoder["pooling"]])
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu").eval()
    different, places = np.unique(np.array(texts, dtype=object), return_inverse=True)
    # `encode` sorts by length, so that batches hold little padding.
    vectors = model.encode(list(different), batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32)[places]


def _location(encoder: dict[str, Any]) -> tuple[Path, str | None]:
    """Return the local folder of an encoder, and which GGUF file in it holds the model, if one does."""
    source, path = encoder["source"], encoder["path"]
    if source == "hub":
        return _download(path, encoder["revision"]), None
    if source == "gguf":
        file = _in_package(f"{encoder['package']}/{path}") if encoder["package"] else Path(path)
        if not file.is_file():
            raise UserError(f"simulators.encoder: {file}: no such model file")
        return file.parent, file.name
    folder = _in_package(path) if source == "package" else Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"simulators.encoder: {folder} is no model folder (it has no config.json)")
    return folder, None


def _in_package(path: str) -> Path:
    """Return a path inside an installed package, whose name is its first part."""
    package, *inside = Path(path).parts
    found = importlib.util.find_spec(package)  # does not import it
    if found is None or not found.submodule_search_locations:
        raise UserError(f"simulators.encoder: Python package '{package}' is not installed; install it with pip")
    return Path(found.submodule_search_locations[0], *inside)


def _download(path: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    if not revision:
        raise UserError("simulators.encoder.revision: missing; a hub encoder needs one, best a commit")
    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"simulators.encoder: cannot get {path} at {revision} from the Hugging Face hub ({reason}); without a "
            "network, use an encoder in a package or folder"
        ) from None
