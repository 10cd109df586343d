"""A page of printed tables, whatever it is rendered as, and how its numbers are printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gptfluence.paper.names import LOWER_IS_BETTER

Frame = list[dict[str, Any]]
"""Tidy rows by name of column."""


@dataclass(frozen=True)
class Line:
    """A row of a printed table.

    Attributes:
        section: what stands first, above all rows that share it: a model, or a family of methods.
        method: as it is called in print.
        cells, bold: one text per column; which are bold.
        paper: whether these are the paper's numbers.
        rule_above: whether a line is drawn between this row and the one above.
    """

    section: str
    method: str
    cells: tuple[str, ...]
    bold: tuple[bool, ...]
    paper: bool
    rule_above: bool


@dataclass(frozen=True)
class Block:
    """One printed table.

    Attributes:
        title: what it shows, in words.
        key: what it shows, as the end of a label in LaTeX.
        sections, rows: what its sections and the rows in them are, e.g. Model and Method.
        columns: (head that neighbours may share, or nothing; head) of each column after section and method.
        lines: its rows.
    """

    title: str
    key: str
    sections: str
    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    rows: str = "Method"


@dataclass(frozen=True)
class Page:
    """All that one table of the paper shows.

    Attributes:
        name: of its module, e.g. table_1.
        heading, title: with and without its number.
        notes: sentences above the printed tables.
        blocks: the printed tables; none if there is nothing to show, which a note then says.
        columns, frame: the tidy CSV.
    """

    name: str
    heading: str
    title: str
    notes: list[str]
    blocks: list[Block]
    columns: tuple[str, ...]
    frame: Frame


def make_lines(
    rows: Iterable[tuple[str, str, list[dict[str, Any] | None]]], print_cell: Callable[[dict[str, Any] | None], str]
) -> tuple[Line, ...]:
    """Lay out rows (section, name, scores with a column bold, or None where there is none); ruled between sections."""
    lines: list[Line] = []
    for section, name, scores in rows:
        cells, bold = tuple(map(print_cell, scores)), tuple(bool(row and row["bold"]) for row in scores)
        lines.append(Line(section, name, cells, bold, False, bool(lines) and lines[-1].section != section))
    return tuple(lines)


def is_best(row: dict[str, Any], rivals: Frame) -> bool:
    """Whether a score (columns: measure, value, low, high) is the best of its rivals, or in the best one's interval."""
    sign = -1 if row["measure"] in LOWER_IS_BETTER else 1
    valued = [rival for rival in rivals if rival["value"] is not None]
    if row["value"] is None:
        return False
    best = max(valued, key=lambda rival: sign * rival["value"])
    tied = best["low"] is not None and best["low"] <= row["value"] <= best["high"]
    return tied or row["value"] == best["value"]


def number_form(value: float, spread: float | None, decimals: int) -> str:
    """Return the format of a number and its spread: at least `decimals`, and three digits that count."""
    if abs(value) >= 1e5 or (spread is not None and spread >= 1e5):
        return ".1e"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f".{min(max(decimals, digits), 9)}f"
