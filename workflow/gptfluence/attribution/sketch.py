"""Sketches of gradients as features of examples: what a model, before it is trained, would learn from each.

TrackStar's encodings (see `trackstar`), with the mean squares of the training examples' gradients in place of an
optimiser's second moments, as there is no optimiser yet, and of unit length.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gptfluence.attribution.hooks import ExampleGradients
from gptfluence.attribution.trackstar import Encoder, mean_squares, second_moments, whiten
from gptfluence.attribution.vectors import unit_length
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import cut
from gptfluence.dynamics.models import context_length, load_model, load_tokenizer, pick_device
from gptfluence.dynamics.tokens import tokenised
from gptfluence.io import write_parquet
from gptfluence.randomness import named_generator

LOG = logging.getLogger("gptfluence")

_WIDTH = 384
"""Numbers of a sketch: as many as the usual text features have, so that the same simulators take either."""


def sketch_gradients(spec: dict[str, Any], output: Path) -> None:
    """Write a sketch of every example of the prepared tasks: columns task, part, example, format, vector.

    Args:
        spec: model (as for `train_runs`), tasks ({task: path}), formats, evaluation_tokens, and settings: parameters,
            projection, damping, seed.
        output: the Parquet file to write, in the form of the text features.

    Raises:
        UserError: a task or the model cannot be read, or a gradient is not finite.
    """
    device, settings = pick_device(), spec["settings"]
    model = load_model(spec["model"], device)
    context = context_length(spec["model"], model)
    tokenizer = functools.cache(lambda: load_tokenizer(spec["model"]))
    budget = Budget.of(spec["evaluation_tokens"], model.config.vocab_size)
    rows: list[tuple[str, str, int, str]] = []
    examples = []
    for task, path in spec["tasks"].items():
        for form in spec["formats"]:
            tokens = tokenised(spec["model"], path, form, tokenizer)
            for row in tokens.rows:
                rows.append((task, row["part"], row["example"], form))
                examples.append(cut(row["prompt"], row["target"], tokens.end, context))
    gradients = ExampleGradients(model, settings["parameters"])
    train = [i for i, (_, part, _, _) in enumerate(rows) if part != "test"]
    moments = mean_squares(gradients, [examples[i] for i in train], budget)
    LOG.info("second moments of %d training examples", len(train))
    encoder = Encoder(gradients, settings, moments)
    encodings = encoder.encode_all(examples, budget)
    whitened = whiten(second_moments(encodings[train], encoder.groups), encoder.groups, settings["damping"])
    sketches = unit_length(_narrowed(whitened.apply(encodings), settings["seed"]))
    LOG.info("%d sketches of %d numbers, from %d of %d parameters", *sketches.shape, encoder.width,
             sum(block.size for block in gradients.blocks))  # fmt: skip
    task, part, example, form = (list(column) for column in zip(*rows, strict=True))
    table = pa.table(
        {
            "task": pa.array(task).dictionary_encode(),
            "part": pa.array(part).dictionary_encode(),
            "example": pa.array(example, pa.int32()),
            "format": pa.array(form).dictionary_encode(),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(sketches.ravel()), sketches.shape[1]),
        }
    )
    write_parquet(output, table, spec)


def _narrowed(encodings: np.ndarray, seed: int) -> np.ndarray:
    """Project encodings to `_WIDTH` numbers, if they have more."""
    width = encodings.shape[1]
    if width <= _WIDTH:
        return encodings
    matrix = named_generator("sketch", seed, width).standard_normal((width, _WIDTH), dtype=np.float32)
    return encodings @ (matrix / np.float32(_WIDTH**0.5))
