"""Write the report: one HTML file that needs nothing else, neither a server nor a network nor scripts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gptfluence.io import read_parquet, read_provenance, write_text
from gptfluence.paper.names import PAPER_MODELS
from gptfluence.paper.tables import make_page
from gptfluence.report.bars import MET, MISSED, OPEN, list_bars
from gptfluence.report.compared import compare
from gptfluence.report.costs import cost_grid, count_runs
from gptfluence.report.findings import find
from gptfluence.report.grid import Grid, counted, grid_of
from gptfluence.report.made import made_grids, versions_grid
from gptfluence.report.pictures import Picture, read_picture

LOG = logging.getLogger("gptfluence")

FOLDER = Path(__file__).parent


class Table(NamedTuple):
    """A table of the paper as the report shows it."""

    name: str
    heading: str
    notes: list[str]
    grids: list[Grid]


def write_report(spec: dict[str, Any], output: Path) -> None:
    """Write the report.

    Args:
        spec: scale, models (by size), tables {name: as for `write_table`}, figures {name: path of a PNG}, scores {name:
            path}, gangs [{scenario, model, name, runs [{split, shard}]}], devices {model: gpu or cpu}, jobs {rule:
            names of its jobs}, stages {name: {files, digest}}.
        output: the HTML file.

    Raises:
        UserError: scores, figures, or what is said of them, are missing or damaged.
    """
    scores = read_parquet(spec["scores"]["scores"]).to_pylist()
    bars = list_bars(scores, spec["scores"])
    shards = [run["shard"] for gang in spec["gangs"] for run in gang["runs"]]
    text = _environment().get_template("report.html.jinja").render(
        scale=spec["scale"],
        facts=_facts(spec, bars.counts),
        compared=compare(scores, spec["models"]),
        comparable=bool(set(spec["models"]) & set(PAPER_MODELS)),
        confidence=read_provenance(spec["scores"]["scores"])["scores"]["confidence"],
        findings=find(scores, spec["scores"]),
        bars=bars,
        tables=[_table(name, table) for name, table in _in_order(spec["tables"])],
        pictures=[_picture(name, path) for name, path in _in_order(spec["figures"])],
        runs=count_runs(spec["gangs"]),
        costs=cost_grid(spec["gangs"], spec["devices"], spec["jobs"]),
        versions=versions_grid(shards),
        made=made_grids(spec["stages"]),
        style=(FOLDER / "report.css").read_text(encoding="utf-8"),
    )  # fmt: skip
    write_text(output, text)


def _in_order(items: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return numbered items by their numbers, then the others by name."""
    last = {name: name.rpartition("_")[2] for name in items}
    return sorted(items.items(), key=lambda item: (int(last[item[0]]) if last[item[0]].isdigit() else 10**6, item[0]))


def _environment() -> Environment:
    # What tasks, models and methods are called comes from a user's params.yaml: all of it is escaped.
    return Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip


def _facts(spec: dict[str, Any], bars: dict[str, int]) -> list[tuple[str, str]]:
    runs = [run for gang in spec["gangs"] for run in gang["runs"]]
    return [
        ("Scale", spec["scale"]),
        ("GPTs trained", f"{len(runs):,}"),
        ("Models", ", ".join(spec["models"])),
        ("Shown", f"{counted(len(spec['tables']), 'table')}, {counted(len(spec['figures']), 'figure')}"),
        ("Bars", f"{bars[MET]:,} met, {bars[MISSED]:,} missed, {bars[OPEN]:,} not decided"),
    ]


def _table(name: str, spec: dict[str, Any]) -> Table:
    LOG.info("%s", name)
    page = make_page(spec)
    return Table(name, page.heading, page.notes, [grid_of(block) for block in page.blocks])


def _picture(name: str, path: str) -> Picture:
    LOG.info("%s", name)
    return read_picture(name, path)
