"""The paper's figures, each in a module of its own: a vector PDF and a PNG from one call.

The PNG holds what it shows in words (`describe`), as its Description: for those who cannot see it, and for the report.
Equal input gives equal bytes: neither file holds a date.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from gptfluence.io import atomic_path
from gptfluence.paper.figures.describe import describe

_RC = {
    "pdf.fonttype": 42,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.1,
    "savefig.dpi": 200,
}


def write_figure(spec: dict[str, Any], outputs: dict[str, Path]) -> None:
    """Draw one figure.

    Args:
        spec: module (of this package), figure (which of those that it draws), width_in (inches), scale, and what that
            module's `draw` reads.
        outputs: paths by form: pdf, png.

    Raises:
        UserError: a file is missing or damaged.
    """
    # Found when called, not imported above: a change of one figure is none of the others' (see `identity`).
    module = importlib.import_module(f"{__name__}.{spec['module']}")
    with matplotlib.rc_context(_RC):
        figure = module.draw(spec)
        # Nothing that changes from day to day or from one version of matplotlib to the next.
        metadata = {
            "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
            "png": {"Software": None, "Description": describe(figure)},
        }
        for form, path in outputs.items():
            with atomic_path(path) as part:
                figure.savefig(part, format=form, metadata=metadata[form])
        plt.close(figure)
