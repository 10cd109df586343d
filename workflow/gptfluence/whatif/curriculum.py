"""What a training run reads: the examples of every batch, by name, and how to change it.

>>> plan = Curriculum.of([["rte:1", "rte:2"], ["rte:3", "rte:1"]])
>>> plan.without("rte:1").batches
(('rte:2',), ('rte:3',))
>>> plan.move("rte:3", 1).batches
(('rte:1', 'rte:2', 'rte:3'), ('rte:1',))
>>> plan.repeat("rte:2", 2).batches
(('rte:1', 'rte:2'), ('rte:3', 'rte:1', 'rte:2'))
>>> plan.replace("rte:1", "rte:9").batches
(('rte:9', 'rte:2'), ('rte:3', 'rte:9'))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gptfluence.errors import UserError

Batches = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Curriculum:
    """A run's batches in their order.

    An example that is left out leaves its batch smaller: the batch's loss is the mean over the tokens of those that
    stay, and a batch without any makes no update.

    Attributes:
        batches: names of the examples of each update, the first is that of step 1.
        rates: learning rate of each update; None: as the fitting runs had it.
        name: what it is called in answers.
    """

    batches: Batches
    rates: tuple[float, ...] | None = None
    name: str = "curriculum"

    def __post_init__(self) -> None:
        """Check that it can be one.

        Raises:
            UserError: it has no step, or its rates are not one finite number, not below 0, for each.
        """
        if not self.batches:
            raise UserError(f"{self.name}: a curriculum needs at least one batch")
        if self.rates is not None:
            if len(self.rates) != len(self.batches):
                raise UserError(f"{self.name}: {len(self.rates)} learning rates for {len(self.batches)} steps")
            if not all(math.isfinite(rate) and rate >= 0 for rate in self.rates):
                raise UserError(f"{self.name}: learning rates must be finite and not below 0")

    @classmethod
    def of(
        cls, batches: Iterable[Iterable[str]], rates: Iterable[float] | None = None, name: str = "curriculum"
    ) -> Curriculum:
        """Make one of any lists of names."""
        return cls(tuple(tuple(batch) for batch in batches), None if rates is None else tuple(rates), name)

    @property
    def steps(self) -> int:
        """How many updates there are."""
        return len(self.batches)

    @property
    def examples(self) -> tuple[str, ...]:
        """Names of all examples, each once, in the order of their first use."""
        return tuple(dict.fromkeys(name for batch in self.batches for name in batch))

    def named(self, name: str) -> Curriculum:
        """Return it under another name."""
        return dataclasses.replace(self, name=name)

    def without(self, *names: str) -> Curriculum:
        """Return it without some examples."""
        self._check(names)
        gone = set(names)
        return self._edited(lambda batch: tuple(name for name in batch if name not in gone))

    def replace(self, old: str, new: str) -> Curriculum:
        """Return it with another example in the places of one."""
        self._check([old])
        return self._edited(lambda batch: tuple(new if name == old else name for name in batch))

    def swap(self, first: str, second: str) -> Curriculum:
        """Return it with two examples in each other's places."""
        self._check([first, second])
        other = {first: second, second: first}
        return self._edited(
            lambda batch: tuple(other.get(name, name) for name in batch) if first in batch or second in batch else batch
        )

    def move(self, name: str, *steps: int) -> Curriculum:
        """Return it with an example in the batches of some steps (from 1), and in no other."""
        return self.without(name).repeat(name, *steps)

    def repeat(self, name: str, *steps: int) -> Curriculum:
        """Return it with an example added to the batches of some steps (from 1): once more for each time it is named.

        Raises:
            UserError: there is no such step.
        """
        batches = [list(batch) for batch in self.batches]
        for step in steps:
            if not 1 <= step <= self.steps:
                raise UserError(f"{self.name}: there is no step {step}; its steps are 1 to {self.steps}")
            batches[step - 1].append(name)
        return dataclasses.replace(self, batches=tuple(map(tuple, batches)))

    def with_rates(self, rates: Sequence[float]) -> Curriculum:
        """Return it with another learning rate at each update."""
        return dataclasses.replace(self, rates=tuple(rates))

    def _check(self, names: Iterable[str]) -> None:
        known = set(self.examples)
        for name in names:
            if name not in known:
                raise UserError(f"{self.name}: does not train on '{name}', so it cannot be taken out or moved")

    def _edited(self, edit: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Curriculum:
        return dataclasses.replace(self, batches=tuple(map(edit, self.batches)))
