"""Held-out runs that were trained again with other texts sampled: what sampling alone changes in a metric."""

from __future__ import annotations

from typing import Any

import numpy as np

from gptfluence.errors import UserError
from gptfluence.scores.measures import Array
from gptfluence.simulators.data import read_shard

_SAME_LOSS = 1e-3
"""Mean difference of losses, relative to the mean loss, up to which two runs have the same weights: tests that are
packed otherwise differ by rounding alone; runs on other curricula by far more."""


def read_repeats(
    pairs: list[list[dict[str, Any]]], metric: str, tasks: tuple[str, ...], sizes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Read one metric of repeated runs, and of their repeats: [repeats, steps + 1, tests] each.

    Args:
        pairs: of each, a held-out run and its repeat (run_id, shard, hash).
        tasks: the test tasks, in the order of the arrays' tests.
        sizes: how many test examples each has.

    Raises:
        UserError: a shard is missing, damaged, incomplete or of another plan, or a repeat has other weights than its
            run, which its losses tell.
    """
    for pair in pairs:
        losses, again = (read_shard(run, "loss", tasks, sizes) for run in pair)
        same = losses.shape == again.shape
        if not same or np.abs(losses - again).mean() > _SAME_LOSS * np.abs(losses).mean():
            run, repeat = pair
            difference = f"by {np.abs(losses - again).mean():.3g} nats per token on average" if same else "in length"
            raise UserError(
                f"{repeat['shard']}: its losses differ from those of {run['shard']} {difference}, so it is no repeat "
                "with the same weights, and the noise of sampling cannot be told from it. Where training is not "
                "deterministic, set runs.repeats of the scenario to 0 in params.yaml; else delete both and run "
                "snakemake again."
            )
    values = [[read_shard(run, metric, tasks, sizes) for run in pair] for pair in pairs]
    measured, repeated = zip(*values, strict=True)
    return np.stack(measured), np.stack(repeated)
