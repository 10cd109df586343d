"""Figures as the report shows them: inside the page, with what they show in words."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from gptfluence.errors import UserError

CAPTIONS = {
    "figure_6": "How well the loss is simulated in instruction tuning, by size of the model. Dots are unweighted means "
    "over the test tasks. The mean curve and persistence know nothing of the training examples.",
    "figure_7": "A share of a task's labels is wrong; examples are checked in the order of each method and corrected, "
    "and a GPT is trained on what is then known: its accuracy, and the share of the wrong labels that is found, "
    "against the share that is checked.",
    "figure_attribution": "Every attribution method, one measure a panel: as a predictor of retraining on random "
    "subsets (LDS), of what one more step does (tail-patch), of which examples state a fact (MRR), as a simulator "
    "(skill), as a finder of wrong labels (AUC), and what it costs.",
    "figure_simulators": "Learning curves of simulators: skill of the loss against the number of fitting runs.",
    "figure_choices": "By how much chosen training data lowers the loss more than random choices do.",
}
"""Of figures that do not explain themselves; others are told by what they show alone."""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its module, e.g. figure_6.
        heading: its number or subject.
        caption: what it is.
        alternative: what it shows, in a few sentences.
        told: what each panel's series show, one sentence each.
        data: the picture as a data URI.
        width, height: pixels.
    """

    name: str
    heading: str
    caption: str
    alternative: str
    told: tuple[str, ...]
    data: str
    width: int
    height: int


def read_picture(name: str, path: str | Path) -> Picture:
    """Read a drawn figure; the pixels stay as they are, packed closer.

    Raises:
        UserError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            words = str(image.info.get("Description", ""))
            packed = io.BytesIO()
            image.convert("RGB").save(packed, "WEBP", lossless=True, method=1, quality=50)
    except FileNotFoundError:
        raise UserError(f"{path}: missing. Run snakemake again to make it.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}). Delete it and run snakemake again.") from None
    alternative, *told = words.splitlines() or [heading_of(name)]
    data = base64.b64encode(packed.getvalue()).decode()
    return Picture(name, heading_of(name), CAPTIONS.get(name, alternative), alternative, tuple(told),
                   f"data:image/webp;base64,{data}", *image.size)  # fmt: skip


def heading_of(name: str) -> str:
    """Return how a figure is headed: by its number in the paper, or by its subject."""
    kind, _, rest = name.partition("_")
    return f"{kind.capitalize()}{' ' if rest.isdigit() else ': '}{rest.replace('_', ' ')}"
