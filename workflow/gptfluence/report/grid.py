"""A table as the report shows it, and how numbers are printed in it and in sentences."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from gptfluence.paper.tables.page import Block, number_form

NONE = "–"
"""Stands in a cell that has no value."""

_SPREAD = re.compile(r"^(?P<value>\S+) (?P<spread>[\[(].*[\])])$")


@dataclass(frozen=True)
class Cell:
    """A cell: its text, what stands behind it in brackets, and whether it is the best of its column, or tied."""

    text: str
    spread: str = ""
    best: bool = False

    @classmethod
    def of(cls, text: str, best: bool = False) -> Cell:
        """Part a printed value from its interval or deviation, so that a narrow column may break between them."""
        match = _SPREAD.match(text)
        return cls(match["value"], match["spread"], best) if match else cls(text, "", best)


@dataclass(frozen=True)
class Row:
    """A row: its name, its cells, and whether they are the paper's."""

    name: str
    cells: tuple[Cell, ...]
    paper: bool = False


@dataclass(frozen=True)
class Section:
    """Rows that share a first head."""

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: what it shows.
        corner: heads of the columns of sections (empty: the table has none) and of names.
        groups: (head, how many columns) of neighbouring columns; empty if they share none.
        heads: of the columns of cells.
        sections: its rows.
    """

    caption: str
    corner: tuple[str, str]
    groups: tuple[tuple[str, int], ...]
    heads: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def wide(self) -> bool:
        """Whether it needs the long side of a sheet."""
        return len(self.heads) > 6

    @property
    def very_wide(self) -> bool:
        """Whether it needs small letters even there."""
        return len(self.heads) > 9


def grid_of(block: Block) -> Grid:
    """Turn a printed table into one of the report; columns under one head stand together."""
    names = list(dict.fromkeys(group for group, _ in block.columns))
    order = sorted(range(len(block.columns)), key=lambda i: names.index(block.columns[i][0]))
    sections: list[Section] = []
    for line in block.lines:
        row = Row(line.method, tuple(Cell.of(line.cells[i], line.bold[i]) for i in order), line.paper)
        if sections and sections[-1].name == line.section and not line.rule_above:
            sections[-1] = Section(line.section, (*sections[-1].rows, row))
        else:
            sections.append(Section(line.section, (row,)))
    groups = tuple((name, sum(group == name for group, _ in block.columns)) for name in names)
    heads = tuple(block.columns[i][1] for i in order)
    return Grid(block.title, (block.sections, "Method"), groups if len(groups) > 1 else (), heads, tuple(sections))


def list_grid(caption: str, name: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Grid:
    """Return a table of texts; each row holds its name first."""
    texts = tuple(Row(first, tuple(map(Cell, cells))) for first, *cells in rows)
    return Grid(caption, ("", name), (), heads, (Section("", texts),) if texts else ())


def section_grid(caption: str, corner: tuple[str, str], heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Grid:
    """Return a table of texts; each row holds its section and its name first, and rows of a section follow on."""
    sections = tuple(
        Section(name, tuple(Row(second, tuple(map(Cell.of, cells))) for _, second, *cells in members))
        for name, members in itertools.groupby(rows, key=lambda row: row[0])
    )
    return Grid(caption, corner, (), heads, sections)


def print_score(row: dict[str, Any] | None, decimals: int = 2) -> str:
    """Print `value [low, high]` of a score, with more decimals where one of them would else be 0; NONE without any."""
    if row is None or row["value"] is None:
        return NONE
    ends = [] if row["low"] is None or row["high"] is None else [row["low"], row["high"]]
    form = number_form(row["value"], None, decimals) if decimals > 2 else f".{decimals}f"
    if any(0 < abs(number) < 0.5 * 10**-decimals for number in (row["value"], *ends)):
        form = f".{decimals + 1}f"
    value, *interval = (f"{number:{form}}" for number in (row["value"], *ends))
    return f"{value} [{', '.join(interval)}]" if interval else value


def listed(names: list[str]) -> str:
    """Join names as a sentence does."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, what: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
