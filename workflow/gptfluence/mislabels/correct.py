"""The curricula of retrainings on corrected labels (paper, section 4.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gptfluence.curricula.draw import draw_curriculum, write_curriculum
from gptfluence.errors import UserError
from gptfluence.mislabels.rankings import checked_count, read_rankings


def correct_labels(spec: dict[str, Any], folder: Path) -> None:
    """Write the curriculum of every retraining: of what is checked, the true label stands in place of the noisy one.

    Order and epochs are those of a run on the whole noisy pool with the same seeds, so that nothing but labels differs.

    Args:
        spec: runs (rows with ranking: by what the labels were checked, and fraction: how many of the pool), ranking
            (path, see `mislabels.rankings`), pool (examples; number i has its true label as number i + pool).
        folder: where to write.

    Raises:
        UserError: the rankings cannot be read, or lack one that a run names.
    """
    pool = spec["pool"]
    orders, _ = read_rankings(spec["ranking"], pool) if spec["runs"] else ({}, None)
    for run in spec["runs"]:
        if run["ranking"] not in orders:
            raise UserError(f"{spec['ranking']}: has no order '{run['ranking']}', which run {run['run_id']} needs")
        checked = np.zeros(pool, bool)
        checked[orders[run["ranking"]][: checked_count(run["fraction"], pool)]] = True
        task, example = draw_curriculum(run)
        # A label that was right is replaced by itself: the two examples have the same text.
        corrected = np.where(checked[example], example + pool, example)
        made_by = {name: run[name] for name in ("ranking", "fraction")}
        write_curriculum(run, task, corrected, folder / Path(run["curriculum"]).name, **made_by)
