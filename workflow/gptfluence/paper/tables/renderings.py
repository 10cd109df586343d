"""A table as tidy CSV, as Markdown, and as a page by itself."""

from __future__ import annotations

import csv
from io import StringIO

from markdown_it import MarkdownIt

from gptfluence.paper.tables.page import Page

_STYLE = """
body { font: 14px sans-serif; margin: 1.5em; } table { border-collapse: collapse; margin-bottom: 2em; }
td, th { padding: 0.2em 0.7em; border-bottom: 1px solid #ddd; white-space: nowrap; } th { border-bottom-color: #000; }
"""


def render_csv(page: Page) -> str:
    """Return the tidy frame, digits as they are."""
    text = StringIO()
    writer = csv.DictWriter(text, page.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(page.frame)
    return text.getvalue()


def render_markdown(page: Page) -> str:
    """Return a heading, the notes, and a table for each block."""
    parts = [f"# {page.heading}", *page.notes]
    for block in page.blocks:
        grouped = len({group for group, _ in block.columns}) > 1
        heads = [f"{group} {name}".strip() if grouped else name for group, name in block.columns]
        rows = [[block.sections, block.rows, *heads], ["---", "---", *["---:" for _ in heads]]]
        for line in block.lines:
            mark = "*" if line.paper else ""
            cells = [f"**{c}**" if bold else c for c, bold in zip(line.cells, line.bold, strict=True)]
            texts = [line.section, line.method, *cells]
            rows.append([f"{mark}{text}{mark}".replace("|", "\\|") for text in texts])
        parts.append(f"## {block.title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def render_html(markdown: str) -> str:
    """Return the table as a page by itself."""
    body = MarkdownIt("commonmark").enable("table").render(markdown)
    return f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><style>{_STYLE}</style>\n{body}</html>\n'
