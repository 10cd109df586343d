"""Tasks in tokens, kept in data/tokens: made by the first job that needs them, and read by all others.

A file's name holds the digest of all that it depends on. It is a cache, of no use without the task that it came from:
neither Snakemake nor DVC knows of it, and a lost or damaged file is made anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from gptfluence.dynamics.examples import Tokenizer, encode_prompt, encode_target
from gptfluence.errors import UserError
from gptfluence.identity import code_digest
from gptfluence.io import digest, read_parquet, read_provenance, write_parquet

LOG = logging.getLogger("gptfluence")

TOKENS = Path("data/tokens")

_SCHEMA = pa.schema(
    {
        "part": pa.string(),
        "example": pa.int32(),
        "prompt": pa.list_(pa.int32()),
        "target": pa.list_(pa.int32()),
        "references": pa.list_(pa.string()),
        "longest_reference": pa.int32(),
    }
)


class Tokenised(NamedTuple):
    """A task in tokens.

    Attributes:
        rows: of each example part, example, prompt and target (token ids, whole, without the end of the text),
            references (texts), longest_reference (tokens).
        end: id of the end-of-text token.
    """

    rows: list[dict[str, Any]]
    end: int


def tokenised(model: dict[str, Any], task: str, form: str, tokenizer: Callable[[], Tokenizer]) -> Tokenised:
    """Return a prepared task in a model's tokens.

    Args:
        model: a row of ``dynamics.models``.
        task: path of the prepared task.
        form: plain or instruction.
        tokenizer: called only if the tokens are not there yet: to load one takes longer than to read them.

    Raises:
        UserError: the task is missing or damaged.
    """
    origin = {"model": {key: value for key, value in model.items() if key not in ("lora", "max_length")}}
    origin |= {"task": Path(task).name, "form": form, "code": code_digest("dynamics.tokens")}
    path = TOKENS / f"{Path(task).stem}.{digest(origin)}.parquet"
    if path.exists():
        try:
            return Tokenised(read_parquet(path).to_pylist(), read_provenance(path)["end"])
        except UserError as error:
            LOG.warning("%s Its task is tokenised anew.", error)
    table = read_parquet(task, columns=["part", "example", "format", "prompt", "target", "references"])
    chosen = table.filter(pc.equal(table["format"], form)).to_pylist()
    loaded = tokenizer()
    rows = [
        {
            "part": row["part"],
            "example": row["example"],
            "prompt": encode_prompt(loaded, row["prompt"]),
            "target": encode_target(loaded, row["target"]),
            "references": row["references"],
            "longest_reference": max(len(loaded(r, add_special_tokens=False)["input_ids"]) for r in row["references"]),
        }
        for row in chosen
    ]
    try:
        write_parquet(path, pa.Table.from_pylist(rows, schema=_SCHEMA), {"end": loaded.eos_token_id, **origin})
    except UserError as error:
        LOG.warning("%s The next job tokenises its task again.", error)
    return Tokenised(rows, loaded.eos_token_id)
