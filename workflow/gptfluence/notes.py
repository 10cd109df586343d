"""When to say how far something is: not at every step, and with what is left of it."""

from __future__ import annotations

import time

_SECONDS = 10.0


class Notes:
    """Keeps the times of something that takes long; it begins now."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()

    def due(self) -> bool:
        """Whether nothing has been said for ten seconds; then something is now."""
        due = time.monotonic() - self._told > _SECONDS
        if due:
            self._told = time.monotonic()
        return due

    def passed(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._began

    def left(self, done: int, parts: int) -> float:
        """Return the seconds that are left, if the other parts take as long as those that are done."""
        return self.passed() / done * (parts - done)
