"""The paper's tables, each in a module of its own: from the scores, as CSV, Markdown, HTML and LaTeX (booktabs)."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptfluence.io import write_text
from gptfluence.paper.tables.latex import render_latex
from gptfluence.paper.tables.page import Page
from gptfluence.paper.tables.renderings import render_csv, render_html, render_markdown


def write_table(spec: dict[str, Any], outputs: dict[str, Path]) -> None:
    """Write one table of the paper.

    Args:
        spec: module (of this package), table (which of those that it lays out), scale, what that module's `make_page`
            reads, and optionally models, their names in the order of the rows (default: by name).
        outputs: paths by form: csv (tidy, full precision), md, tex, html.

    Raises:
        UserError: the scores are missing or damaged.
    """
    page = make_page(spec)
    markdown = render_markdown(page)
    texts = {"csv": render_csv(page), "md": markdown, "html": render_html(markdown), "tex": render_latex(page)}
    for form, path in outputs.items():
        write_text(path, texts[form])


def make_page(spec: dict[str, Any]) -> Page:
    """Lay out one table, whatever it is rendered as; `spec` as for `write_table`.

    Raises:
        UserError: the scores are missing or damaged.
    """
    # Found when called, not imported above: a change of one table is none of the others' (see `identity`).
    page: Page = importlib.import_module(f"{__name__}.{spec['module']}").make_page(spec)
    return replace(page, notes=[*page.notes, *spec.get("notes", ())])
