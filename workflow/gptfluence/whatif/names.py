"""Names of examples, such as ``rte:17``, and the numbers that simulators know them by."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gptfluence.errors import UserError


@dataclass(frozen=True)
class Names:
    """Examples of one part in the order of their numbers.

    Attributes:
        names: ``task:example`` each.
        what: training example or test example; for messages.
    """

    names: tuple[str, ...]
    what: str

    @classmethod
    def of(cls, tasks: Sequence[str], sizes: Sequence[int], what: str) -> Names:
        """Return the names of tasks' examples, which count from 0 in each.

        >>> Names.of(["rte", "sst2"], [2, 1], "test example").names
        ('rte:0', 'rte:1', 'sst2:0')
        """
        return cls(tuple(f"{task}:{i}" for task, size in zip(tasks, sizes, strict=True) for i in range(size)), what)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Return the numbers of some names.

        Raises:
            UserError: there is no such example; the message says the nearest names.
        """
        names = list(names)
        found = list(map(self._numbers.get, names))
        if None in found:
            raise UserError(self._unknown(names[found.index(None)]))
        return np.array(found, np.int64)

    def matching(self, patterns: Iterable[str]) -> NDArray[np.int64]:
        """Return the numbers of names, of whole tasks (``rte``) or of ranges (``rte:3-7``), each once, in their order.

        >>> Names.of(["rte", "sst2"], [5, 1], "test example").matching(["rte:1-3", "sst2"])
        array([1, 2, 3, 5])
        """
        found: dict[int, None] = {}
        for pattern in patterns:
            task, _, rest = pattern.partition(":")
            low, dash, high = rest.partition("-")
            if not rest:
                some = [number for name, number in self._numbers.items() if name.startswith(f"{task}:")]
            elif dash and low.isdigit() and high.isdigit():
                some = self.numbers(f"{task}:{i}" for i in range(int(low), int(high) + 1)).tolist()
            else:
                some = self.numbers([pattern]).tolist()
            if not some:
                raise UserError(self._unknown(pattern))
            found |= dict.fromkeys(some)
        return np.array(list(found), np.int64)

    def _unknown(self, name: str) -> str:
        sizes: dict[str, int] = {}
        for known in self.names:
            sizes[known.rpartition(":")[0]] = sizes.get(known.rpartition(":")[0], 0) + 1
        near = difflib.get_close_matches(str(name), self.names, n=3)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        there = ", ".join(f"{task}:0 to {task}:{size - 1}" if size > 1 else f"{task}:0" for task, size in sizes.items())
        return f"this simulator knows no {self.what} '{name}'{hint}; it knows {there}"
