"""A table as LaTeX (booktabs)."""

from __future__ import annotations

import itertools
import re

from gptfluence.paper.tables.page import Block, Page

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_TEX |= {character: "\\" + character for character in "&%$#_{}"}


def escape_tex(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    return re.sub(r"[\\~^–&%$#_{}]", lambda match: _TEX[match[0]], text)


def render_latex(page: Page) -> str:
    """Return one float for each block: all of them on one page would be too tall."""
    floats = [_latex_float(page, block, " ".join(page.notes) if i == 0 else "") for i, block in enumerate(page.blocks)]
    if not floats:
        caption = escape_tex(" ".join([f"{page.title}.", *page.notes]))
        floats = [f"\\begin{{table*}}\n\\caption{{{caption}}}\n\\label{{tab:{page.name}}}\n\\end{{table*}}\n"]
    return "% Needs \\usepackage{booktabs,graphicx}\n" + "\n".join(floats)


def _latex_float(page: Page, block: Block, notes: str) -> str:
    groups = list(dict.fromkeys(group for group, _ in block.columns))
    # A metric's columns stand together, also those of skill.
    order = sorted(range(len(block.columns)), key=lambda i: groups.index(block.columns[i][0]))
    caption = f"{page.title}: {block.title[0].lower()}{block.title[1:]}. {notes}".strip()
    rows = []
    if len(groups) > 1:
        spans = [sum(group == name for group, _ in block.columns) for name in groups]
        heads = [rf"\multicolumn{{{n}}}{{c}}{{{escape_tex(g)}}}" for n, g in zip(spans, groups, strict=True)]
        edges = [3 + sum(spans[:i]) for i in range(len(spans) + 1)]
        spanned = zip(groups, itertools.pairwise(edges), strict=True)
        rules = "".join(rf"\cmidrule(lr){{{a}-{b - 1}}}" for name, (a, b) in spanned if name)
        rows.append(" & ".join(["", "", *heads]) + r" \\" + f"\n{rules}")
    rows.append(" & ".join([block.sections, block.rows, *(escape_tex(block.columns[i][1]) for i in order)]) + r" \\")
    rows.append(r"\midrule")
    shown = ""
    for line in block.lines:
        if line.rule_above:
            rows.append(r"\midrule")
        section = line.section if line.section != shown or line.rule_above else ""
        cells = [escape_tex(section), escape_tex(line.method)]
        shown = line.section
        for i in order:
            cell = re.sub(r"(?<![\w.])-(?=\d)", "$-$", escape_tex(line.cells[i]))
            cells.append(rf"\textbf{{{cell}}}" if line.bold[i] else cell)
        if line.paper:
            cells = [rf"\textit{{{cell}}}" if cell else "" for cell in cells]
        rows.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escape_tex(caption)}}}",
            rf"\label{{tab:{page.name}_{block.key}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{ll{'r' * len(order)}}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )
