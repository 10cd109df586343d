"""What a drawn figure shows, in words, from its data: for those who cannot see it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.offsetbox import DrawingArea
from matplotlib.ticker import FixedLocator

MOST_POINTS = 6
"""A series of no more points is told point by point, a longer one by its ends and extremes."""

MOST_TITLES = 4
"""Of more panels the first and the last are named."""

Look = tuple[str, ...]
"""Colour, marker and filling by which a line and its entry in a legend are known to be the same."""


@dataclass(frozen=True)
class Series:
    """What is drawn of one thing in a panel: points in the order of the axis that is not measured on.

    Attributes:
        label: as in the legend; empty where nothing names it.
        at: places, or names of categories.
        values: what was drawn there.
    """

    label: str
    at: tuple[float | str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, what its axes show, its series."""

    title: str
    at: str
    measured: str
    series: tuple[Series, ...]


def describe(figure: Figure) -> str:
    """Return a first line that says what the figure shows, and one line for each series: its values, in words.

    Names come from legends, titles and labels of axes, values from what was drawn: nothing is known of the figure.
    """
    panels = [panel for axes in figure.axes if axes.get_visible() and (panel := _panel(axes, figure)).series]
    if not panels:
        texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
        return _flat("; ".join(text for text in texts if text.strip()))
    lines = [_summary(figure, panels)]
    for panel in panels:
        start = f"{panel.title}: " if panel.title else ""
        lines += [f"{start}{_told(series)}" for series in panel.series]
    return "\n".join(lines)


def _summary(figure: Figure, panels: list[Panel]) -> str:
    titles = [panel.title for panel in panels if panel.title]
    if len(titles) > MOST_TITLES:
        titles = [titles[0], "...", titles[-1]]
    named = f" ({'; '.join(titles)})" if titles else ""
    axes = dict.fromkeys(_against(panel) for panel in panels)
    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series if series.label))
    parts = [f"{len(panels)} panel{'s' * (len(panels) > 1)}{named}: {'; '.join(filter(None, axes))}."]
    if labels:
        parts.append(f"Shown: {', '.join(labels)}.")
    parts += _extremes(panels)
    notes = [legend.get_title().get_text() for legend in figure.legends]
    parts += [f"{_upper(_flat(note))}." for note in notes if note]
    return " ".join(parts)


def _against(panel: Panel) -> str:
    names = [str(at) for series in panel.series for at in series.at if isinstance(at, str)]
    at = panel.at or (f"{len(set(names))} rows" if names else "")
    return f"{panel.measured} against {at}" if panel.measured and at else panel.measured or at


def _extremes(panels: list[Panel]) -> list[str]:
    """Say which series are the highest and the lowest in panels of several: at the end; of categories, on average."""
    told = []
    for categories, where in ((False, "at the end"), (True, "on average")):
        ends: list[dict[str, float]] = []
        for panel in panels:
            named = [series for series in panel.series if series.label]
            alike = len({series.at for series in named}) == 1 or not categories
            if len(named) > 1 and isinstance(named[0].at[0], str) == categories and alike:
                ends.append({s.label: fmean(s.values) if categories else s.values[-1] for s in named})
        ends = [values for values in ends if len(set(values.values())) > 1]
        for word, pick in (("highest", max), ("lowest", min)):
            firsts = [(label := pick(values, key=values.__getitem__), values[label]) for values in ends]
            if not firsts:
                continue
            (label, count), *_ = Counter(label for label, _ in firsts).most_common(1)
            much = f"in {count} of {len(firsts)} panels" if len(firsts) > 1 else f"({_number(firsts[0][1])})"
            told.append(f"{_upper(label)} is {word} {where} {much}.")
    return told


def _told(series: Series) -> str:
    name = series.label or "values"
    if len(series.values) <= MOST_POINTS or isinstance(series.at[0], str):
        points = zip(series.at, series.values, strict=True)
        return f"{name}: {', '.join(f'{_number(value)} at {_place(at)}' for at, value in points)}."
    low, high = min(series.values), max(series.values)
    return (
        f"{name}: from {_number(series.values[0])} at {_place(series.at[0])} to {_number(series.values[-1])} at "
        f"{_place(series.at[-1])}; lowest {_number(low)}, highest {_number(high)}."
    )


def _panel(axes: Axes, figure: Figure) -> Panel:
    names = _names([*figure.legends, *([legend] if (legend := axes.get_legend()) else [])])
    columns, rows = _categories(axes.xaxis), _categories(axes.yaxis)
    sideways = rows is not None  # categories stand one below the other, values go to the right
    found: list[Series] = []
    for look, x, y in _drawn(axes):
        at, values = (y, x) if sideways else (x, y)
        shown = np.isfinite(values)
        if not shown.any():
            continue
        places: Iterable[float | str] = at[shown].tolist()
        categories = rows if sideways else columns
        if categories:
            places = [_category(place, categories) for place in at[shown]]
        found.append(Series(_name(look, names), tuple(places), tuple(values[shown].tolist())))
    labels = _label(axes, "x"), _label(axes, "y")
    at, measured = labels[::-1] if sideways else labels
    return Panel(_flat(axes.get_title()), at, measured, tuple(found))


def _drawn(axes: Axes) -> list[tuple[Look, np.ndarray, np.ndarray]]:
    """Return look and points of whatever shows data: lines, dots with whiskers, bars, scattered dots."""
    found = []
    whiskers: set[Line2D] = set()
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            whiskers |= set(container[1])
        elif isinstance(container, BarContainer):
            for bar in container.patches:
                upright = container.orientation != "horizontal"
                middle = bar.get_x() + bar.get_width() / 2 if upright else bar.get_y() + bar.get_height() / 2
                end = bar.get_height() if upright else bar.get_width()
                point = np.array([middle]), np.array([end], float)
                found.append(((to_hex(bar.get_facecolor()),), *(point if upright else point[::-1])))
    for line in axes.lines:
        if line in whiskers or line.get_transform() != axes.transData or not line.get_visible():
            continue  # a whisker's end, or a line across the panel that is no data
        x, y = (np.asarray(data, float) for data in (line.get_xdata(), line.get_ydata()))
        found.append((_look(line), x, y))
    for dots in axes.collections:
        if isinstance(dots, PathCollection) and len(dots.get_facecolors()):
            x, y = np.ma.filled(dots.get_offsets().astype(float), np.nan).T
            found.append(((to_hex(dots.get_facecolors()[0]),), x, y))
    return found


def _look(line: Line2D) -> Look:
    return to_hex(line.get_color()), str(line.get_marker()), str(line.get_markerfacecolor())


def _names(legends: list[Legend]) -> dict[Look, str]:
    """Return what legends call a look, and each shorter look that only one entry has."""
    whole: dict[Look, str] = {}
    for legend in legends:
        boxes = legend.findobj(DrawingArea)
        for box, text in zip(boxes, legend.get_texts(), strict=False):
            for child in box.get_children():
                if isinstance(child, Line2D):
                    whole[_look(child)] = _flat(text.get_text())
                elif hasattr(child, "get_facecolor") and len(np.atleast_2d(child.get_facecolor())):
                    whole[(to_hex(np.atleast_2d(child.get_facecolor())[0]),)] = _flat(text.get_text())
    names = dict(whole)
    for size in (2, 1):
        shorter: dict[Look, set[str]] = {}
        for look, label in whole.items():
            shorter.setdefault(look[:size], set()).add(label)
        names |= {look: labels.pop() for look, labels in shorter.items() if len(labels) == 1 and look not in names}
    return names


def _name(look: Look, names: dict[Look, str]) -> str:
    return next((names[look[:size]] for size in range(len(look), 0, -1) if look[:size] in names), "")


def _categories(axis: Axis) -> dict[float, str] | None:
    """Return the names that stand on an axis instead of numbers, by place; None where numbers do."""
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return None
    places = axis.get_majorticklocs()
    names = [_flat(str(name)) for name in axis.get_major_formatter().format_ticks(places)]
    if not any(re.search(r"[^\W\d_]", name) for name in names):
        return None
    return {float(place): name for place, name in zip(places, names, strict=True)}


def _category(place: float, categories: dict[float, str]) -> str:
    return categories[min(categories, key=lambda known: abs(known - place))]


def _label(axes: Axes, which: str) -> str:
    """Return an axis's label: where panels stand in a grid, only one of a column or row bears it."""
    spec = axes.get_subplotspec()
    line = "colspan" if which == "x" else "rowspan"
    others = [one for one in axes.figure.axes if spec and (there := one.get_subplotspec())
              and getattr(there, line) == getattr(spec, line)]  # fmt: skip
    labels = (getattr(one, f"get_{which}label")() for one in (axes, *others))
    return _flat(next((label for label in labels if label), ""))


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _flat(text: str) -> str:
    return " ".join(text.split())


def _number(value: float) -> str:
    return f"{value:.3g}"


def _place(at: float | str) -> str:
    return at if isinstance(at, str) else f"{at:g}"
