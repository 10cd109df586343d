"""Bars for who waits at a terminal. Jobs write lines into their logs instead; see `notes`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

_Part = TypeVar("_Part")
_SECONDS = 1.0


class Bar:
    """A bar on standard error from the second second on, if that is a terminal; else nothing."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        """Begin.

        Args:
            what: is done, in a word or two.
            total: of its parts; None: not known.
            unit: of the parts; B (bytes) is scaled.
        """
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=what, total=total, unit=unit if unit == "B" else f" {unit}", unit_scale=unit == "B",
                             leave=False, delay=_SECONDS)  # fmt: skip

    @property
    def visible(self) -> bool:
        """Whether there is a terminal."""
        return self._bar is not None

    def to(self, done: int) -> None:
        """Say how many parts are done, of all."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def barred(parts: Sequence[_Part], what: str, unit: str) -> Iterator[_Part]:
    """Yield parts, with a bar of how many are done; arguments: see `Bar`."""
    with Bar(what, len(parts), unit) as bar:
        for done, part in enumerate(parts):
            bar.to(done)
            yield part
