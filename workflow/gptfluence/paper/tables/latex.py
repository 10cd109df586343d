"""A table as LaTeX (booktabs)."""

from __future__ import annotations

import itertools
import re

from gptfluence.paper.tables.layout import Block

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_TEX |= {character: "\\" + character for character in "&%$#_{}"}


def escape_tex(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    return re.sub(r"[\\~^–&%$#_{}]", lambda match: _TEX[match[0]], text)


def render_latex(table: str, title: str, notes: list[str], blocks: list[Block]) -> str:
    """Return one float for each measure: three of them on one page would be too tall."""
    return "% Needs \\usepackage{booktabs,graphicx}\n" + "\n".join(
        _latex_float(table, title, notes, block, number) for number, block in enumerate(blocks)
    )


def _latex_float(table: str, title: str, notes: list[str], block: Block, number: int) -> str:
    groups = list(dict.fromkeys(group for group, _ in block.columns))
    # A metric's columns stand together, also those of skill.
    order = sorted(range(len(block.columns)), key=lambda i: groups.index(block.columns[i][0]))
    caption = f"{title}: {block.title[0].lower()}{block.title[1:]}." + (" " + " ".join(notes) if number == 0 else "")
    rows = []
    if len(groups) > 1:
        spans = [sum(group == name for group, _ in block.columns) for name in groups]
        heads = [rf"\multicolumn{{{n}}}{{c}}{{{escape_tex(g)}}}" for n, g in zip(spans, groups, strict=True)]
        edges = [3 + sum(spans[:i]) for i in range(len(spans) + 1)]
        rules = "".join(rf"\cmidrule(lr){{{a}-{b - 1}}}" for a, b in itertools.pairwise(edges))
        rows.append(" & ".join(["", "", *heads]) + r" \\" + f"\n{rules}")
    rows.append(" & ".join(["Model", "Method", *(escape_tex(block.columns[i][1]) for i in order)]) + r" \\")
    rows.append(r"\midrule")
    shown = ""
    for line in block.lines:
        if line.rule_above:
            rows.append(r"\midrule")
        cells = [escape_tex(line.model) if line.model != shown or line.rule_above else "", escape_tex(line.method)]
        shown = line.model
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
            rf"\label{{tab:{table}_{block.title.split()[-1].lower()}}}",
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
