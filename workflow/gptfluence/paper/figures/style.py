"""How the figures draw methods: in each figure the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gptfluence.paper.names import METHODS, sort_methods


@dataclass(frozen=True)
class Style:
    """A method's name in print, and its line: colour (Okabe-Ito), marker, dash."""

    label: str
    colour: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]


MEASURED_STYLE = Style("measured", "#000000", "", "-")

_LINES = {
    "persistence": ("#E69F00", "x", (0, (1, 1))),
    "global_ar1": ("#E69F00", "+", (0, (3, 1, 1, 1))),
    "mean_curve": ("#CC79A7", "d", (0, (4, 1))),
    "predicted_curve": ("#CC79A7", "D", (0, (1, 1))),
    "time_curve": ("#CC79A7", "s", (0, (2, 1))),
    "tracin_cp": ("#009E73", "v", (0, (3, 1))),
    "tracin": ("#009E73", "*", (0, (1, 1))),
    "tracin_adamw": ("#009E73", "P", (0, (5, 1))),
    "grad_dot": ("#E69F00", "D", (0, (1, 1))),
    "simfluence": ("#D55E00", "s", (0, (5, 1, 1, 1))),
    "simfluence_additive": ("#D55E00", "<", (0, (2, 1))),
    "simfluence_multiplicative": ("#D55E00", ">", (0, (1, 2))),
    "gptfluence": ("#0072B2", "o", "-"),
    "gptfluence_gradients": ("#0072B2", "p", (0, (3, 1))),
    "gptfluence_mlp": ("#56B4E9", "^", (0, (6, 1))),
    "gradient_response": ("#882255", "h", (0, (4, 1, 1, 1))),
}
_OTHERS = [("#7F7F7F", "v"), ("#7F7F7F", "P"), ("#7F7F7F", "*"), ("#999933", "h"), ("#999933", "p"), ("#999933", "8")]

IN_TABLES_ONLY = (
    *("global_ar1", "simfluence_additive", "simfluence_multiplicative", "gptfluence_gradients", "gptfluence_mlp"),
    *("predicted_curve", "time_curve", "tracin", "tracin_adamw"),
)
"""What the figures leave out, so that the lines of the methods that the paper draws can be told apart."""


def method_style(name: str, names: Iterable[str]) -> Style:
    """Return how a method is drawn; a user's own gets a line by its place among those of `names`."""
    if name in METHODS:
        return Style(METHODS[name], *_LINES[name])
    own = [other for other in sort_methods([*names, name]) if other not in METHODS]
    colour, marker = _OTHERS[own.index(name) % len(_OTHERS)]
    return Style(name, colour, marker, (0, (3, 1)))
