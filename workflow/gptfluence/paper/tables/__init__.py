"""The paper's tables, each in a module of its own: from the scores, as CSV, Markdown, HTML and LaTeX (booktabs)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gptfluence.io import read_parquet, write_text
from gptfluence.paper.tables.frame import Content, make_frame
from gptfluence.paper.tables.latex import render_latex
from gptfluence.paper.tables.layout import BLOCKS, make_block, make_notes
from gptfluence.paper.tables.renderings import render_csv, render_html, render_markdown


def write_table(spec: dict[str, Any], outputs: dict[str, Path]) -> None:
    """Write one table of the paper.

    Args:
        spec: table (a module of this package), scores (path of scores.parquet), scale, and optionally models, their
            names in the order of the rows (default: by name).
        outputs: paths by form: csv (tidy, full precision), md, tex, html (for the report).

    Raises:
        UserError: the scores are missing or damaged.
    """
    table = spec["table"]
    # Found when called, not imported above: a change of one table is none of the others' (see `identity`).
    content: Content = importlib.import_module(f"{__name__}.{table}").CONTENT
    frame = make_frame(table, content, read_parquet(spec["scores"]).to_pylist())
    models = list(spec.get("models", []))
    models += sorted({row["model"] for row in frame if row["source"] == "ours"} - set(models))
    blocks = [make_block(frame, measure, content.metrics, models) for measure in BLOCKS]
    notes = make_notes(frame, content.scenario, spec["scale"])
    markdown = render_markdown(f"Table {table.removeprefix('table_')}. {content.title}", notes, blocks)
    texts = {
        "csv": render_csv(frame),
        "md": markdown,
        "html": render_html(markdown),
        "tex": render_latex(table, content.title, notes, blocks),
    }
    for form, path in outputs.items():
        write_text(path, texts[form])
