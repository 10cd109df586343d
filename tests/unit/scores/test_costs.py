"""measure_costs on fitted simulators of made-up shards: what is timed, and what a step multiplies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from gptfluence.io import read_provenance
from gptfluence.scores import costs
from gptfluence.scores.costs import SCHEMA, count_products, measure_costs
from gptfluence.simulators.base import Curricula, Simulator
from gptfluence.simulators.fit import fit_simulator
from gptfluence.simulators.mlp import Mlp
from synthetic import ADAM, METHOD_SETTINGS, chosen_runs, planted, write_group

SIMULATED = ("persistence", "mean_curve", "simfluence", "gptfluence", "gradient_response")


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    group = write_group(tmp_path, splits=("fit", "fit", "validate", "held_out", "held_out", "held_out"))
    files = {}
    for name in SIMULATED:
        files[name] = str(tmp_path / f"{name}.safetensors")
        fit = chosen_runs(group, "fit", "validate") | {"method": name, "settings": METHOD_SETTINGS[name]}
        fit_simulator(fit, Path(files[name]))
    seconds = tmp_path / "seconds.json"
    seconds.write_text(json.dumps({"tracin_cp": 10.0, "bm25": 3.0}))
    return chosen_runs(group, "held_out") | {"simulators": files, "batch": 2, "seconds": str(seconds)}


def test_calls_are_timed_for_one_run_and_for_all(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that each call of a simulator moves by the runs that it is given."""
    now = [0.0]

    def tick(simulator: Simulator, curricula: Curricula, first_values: Any) -> None:
        now[0] += len(first_values)

    for kind in {type(costs.load_simulator(path)[0]) for path in spec["simulators"].values()}:
        monkeypatch.setattr(kind, "simulate", tick)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: now[0])
    measure_costs(spec, tmp_path / "costs.parquet")
    table = pq.read_table(tmp_path / "costs.parquet")
    assert table.schema.remove_metadata() == SCHEMA
    rows = {(row["method"], row["measure"]): row for row in table.to_pylist()}
    for name in SIMULATED:
        assert [rows[name, measure]["value"] for measure in ("one_run", "all_runs")] == [1.0, 3.0]
        assert [rows[name, measure]["runs"] for measure in ("one_run", "all_runs")] == [1, 3]
    assert {(row["steps"], row["tests"]) for row in rows.values()} == {(8, 5)}
    assert rows["tracin_cp", "one_test"]["value"] == 10.0 / 5
    assert ("bm25", "one_test") not in rows and ("persistence", "flops") not in rows
    assert rows["simfluence", "flops"]["value"] == 2 * 2  # A and B of two examples
    assert "one thread of" in read_provenance(tmp_path / "costs.parquet")["costs"]["machine"]


def test_products_of_the_papers_simulators_are_the_papers() -> None:
    """Table 13: 16 for Simfluence, and (8 + 1) x 2 factors x 2 layers x 384 x 384 = 5.3e6 for GPTfluence."""
    dynamics, curricula, features = planted(runs=4, steps=3, tests=2)
    simulator = Mlp(order=1, start="given", aggregation="sum", shrink_to="zero", adam=ADAM | {"epochs": 1})
    simulator.fit(dynamics, curricula, features)
    width = features.train.shape[1]
    assert count_products(simulator, 8) * 384**2 / width**2 == pytest.approx(5.3e6, rel=0.01)
