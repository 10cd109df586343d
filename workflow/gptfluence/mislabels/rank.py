"""Orders in which labels are checked, those that look wrong first (paper, section 4.6).

Each order is fixed beforehand and sees the noisy labels alone:

* gptfluence: by the factor alpha(i, i) of a step on example i alone by which the fitted simulator multiplies i's own
  loss, the highest first. The simulator knows examples by their texts, label included. What it says of a text's effect
  on itself is therefore what training on such texts did to such texts: the others agree with a right label, so its loss
  falls; they contradict a wrong one, so it falls less or rises. (The paper does not say which end it takes.)
* tracin: by the self-influence, the sum of eta |g_i|^2 over checkpoints, the highest first [TracIn, arXiv 2002.08484,
  section 4.1]: an example against which all others speak has a large gradient all along.
* loss: by the loss of the example at the end of the run on all noisy labels, the highest first: what is still
  unlikely to a GPT that was trained on it. (Before the run, losses would tell which label the GPT prefers, no more.)
* random_0, random_1, ...: random orders.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptfluence.attribution.replay import Rerun, Reruns, self_influence
from gptfluence.dynamics.packing import measure, pack_by_length
from gptfluence.errors import UserError
from gptfluence.io import read_parquet
from gptfluence.mislabels.rankings import RANDOM, Ranking, write_rankings
from gptfluence.randomness import named_generator
from gptfluence.simulators.base import Array, Features
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.data import read_features
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.rollout import unit_length

LOG = logging.getLogger("gptfluence")

_TOLERANCE = 1e-6  # of inner products of features, whose mean square length is 1


def rank_mislabels(spec: dict[str, Any], output: Path) -> None:
    """Order the examples of a pool of noisy labels by how suspicious each method finds them.

    Args:
        spec: as for `train_runs`, with one run, which trains on all noisy labels; and format, train_tasks, train_size,
            test_tasks, test_sizes, features (path) as for `fit_simulator`, simulator (path; fitted on the loss in runs
            on parts of the same pool), task_file (path), pool (examples with noisy labels), checkpoints (of
            self-influence), random_seeds (how many random orders).
        output: the Parquet file to write, see `mislabels.rankings`.

    Raises:
        UserError: an input is missing, damaged or of another plan, or the run cannot be trained again.
    """
    (run,) = spec["runs"]
    (task,) = spec["train_tasks"]
    pool = spec["pool"]
    flipped = flipped_labels(spec["task_file"], spec["format"], pool)
    simulator, _ = load_simulator(spec["simulator"])
    if not isinstance(simulator, Bilinear):
        raise UserError(f"{spec['simulator']}: no bilinear simulator, so its factor of an example on itself is unknown")
    features = read_features(spec)
    rerun = Reruns(spec).start(run)
    influence = self_influence(rerun, spec["checkpoints"])
    losses = end_losses(rerun)
    scores = {
        "gptfluence": self_factors(simulator, features)[:pool],
        "tracin": np.array([influence[task, i] for i in range(pool)]),
        "loss": np.array([losses[task, i] for i in range(pool)]),
    }
    rankings = {name: _highest_first(name, values) for name, values in scores.items()}
    for i in range(spec["random_seeds"]):
        rankings[f"{RANDOM}_{i}"] = Ranking(named_generator("mislabels", RANDOM, i).permutation(pool))
    provenance = {
        "run": {"run_id": run["run_id"], "hash": run["hash"]},
        "simulator": Path(spec["simulator"]).name,
        **{key: spec[key] for key in ("pool", "checkpoints", "random_seeds")},
    }
    write_rankings(output, rankings, flipped, provenance)
    LOG.info("%s: orders of %d labels, %d of them wrong: %s", task, pool, flipped.sum(), ", ".join(rankings))


def flipped_labels(path: str | Path, form: str, pool: int) -> NDArray[np.bool_]:
    """Return which noisy labels are wrong: those that differ from the same examples' true ones.

    Args:
        path: the mislabelled task, see `tasks.mislabel`.
        form: plain or instruction.
        pool: P.

    Raises:
        UserError: the file is missing or damaged, or holds another pool.
    """
    table = read_parquet(path, ["part", "example", "format", "target"])
    rows = [row for row in table.to_pylist() if row["part"] == "pool" and row["format"] == form]
    if [row["example"] for row in rows] != list(range(2 * pool)):
        raise UserError(f"{path}: does not hold {pool} examples with noisy and true labels. Delete it and rerun.")
    targets = np.array([row["target"] for row in rows], dtype=object)
    return (targets[:pool] != targets[pool:]).astype(bool)


def self_factors(simulator: Bilinear, features: Features) -> Array:
    """Return alpha(i, i) of each training example: what a step on it alone multiplies its own loss with, [train].

    With `A = h' M g` (paper, eq. 6), h_i is the example's feature as one that is trained on, g_i as one that is tested.
    Of an order above 1, all factors are summed: that of a loss which has not changed of late.

    Args:
        simulator: whose features are in a basis of its own.
        features: those that it was fitted with.

    Raises:
        UserError: they are not.
    """
    test, known = unit_length(features.test, features.test), simulator.test
    # Whatever their bases, equal features have equal inner products.
    if len(simulator.train) != len(features.train) or not np.allclose(test @ test.T, known @ known.T, atol=_TOLERANCE):
        raise UserError("the simulator was fitted with other features than are given. Delete it and rerun.")
    # Outside of the tests' span nothing was seen, and the fit of the smallest norm says nothing.
    basis, *_ = np.linalg.lstsq(test, known, rcond=None)
    tested = unit_length(features.train, features.test) @ basis
    factors = np.einsum("ip,pq,iq->i", simulator.train, simulator.matrices[:-1].sum(axis=0), tested)
    return factors + (simulator.shrink_to == "persistence")


def end_losses(rerun: Rerun) -> dict[tuple[str, int], float]:
    """Train a run again to its end; return the mean loss, in nats per token, of each example that it is trained on.

    Returns:
        By task and number.

    Raises:
        UserError: a loss is not finite.
    """
    rerun.update_to(rerun.run["steps"])
    drawn = rerun.drawn()
    packs = pack_by_length([rerun.reruns.inputs.train[key] for key in drawn], rerun.reruns.budget)
    losses = measure(rerun.follower, packs)
    if not np.isfinite(losses).all():
        raise UserError(f"run {rerun.run['run_id']}: it diverges, so its losses give no order; lower its learning rate")
    return dict(zip(drawn, losses.tolist(), strict=True))


def _highest_first(name: str, scores: Array) -> Ranking:
    if not np.isfinite(scores).all():
        raise UserError(f"{name}: the score of example {int(np.argmin(np.isfinite(scores)))} is not finite")
    order = np.argsort(-scores, kind="stable")
    return Ranking(order, scores[order])
