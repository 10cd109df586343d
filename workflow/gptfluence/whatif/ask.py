"""Questions to a fitted simulator, under the names of examples."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptfluence.bars import Bar, barred
from gptfluence.errors import UserError
from gptfluence.randomness import named_generator
from gptfluence.simulators.base import Array, Simulator
from gptfluence.simulators.files import load_simulator
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.pooled import PooledResponse
from gptfluence.whatif.answers import CURVE, FINAL, Comparison, Influence, Interactions, Trajectories
from gptfluence.whatif.curriculum import Curriculum
from gptfluence.whatif.engines import Change, Engine, Run, make_engine
from gptfluence.whatif.names import Names

log = logging.getLogger("gptfluence")

FAR = 2.0
"""Distance, see `Simulator.distances`, above which a curriculum is worth a warning."""
BLOCK = 32
"""Changed runs whose trajectories are in memory at once."""


def load(path: str | Path) -> WhatIf:
    """Read a fitted simulator, such as one of results/simulators/\\*.safetensors. The file stands alone.

    Raises:
        UserError: it is missing, damaged, or not a fitted simulator.
    """
    simulator, facts = load_simulator(path)
    if "fitted_on" not in facts:
        raise UserError(f"{path}: does not say what it was fitted on; fit it again (snakemake simulators)")
    return WhatIf(simulator, facts, str(path))


class WhatIf:
    """A fitted simulator, and what it was fitted on.

    Attributes:
        simulator: of the examples in the order of `train` and `test`.
        facts: group, metric, method, settings, tasks, and `fitted_on`; see `simulators.fit`.
        where: its file; for messages.
        train, test: names of the examples that it knows.
    """

    def __init__(self, simulator: Simulator, facts: dict[str, Any], where: str, train: Names | None = None) -> None:
        """Put names to a simulator's numbers; `train`: if it knows more than what `facts` say."""
        self.simulator, self.facts, self.where = simulator, facts, where
        tasks = facts["train_tasks"]
        self.train = train or Names.of(tasks, [facts["train_size"]] * len(tasks), "training example")
        tested = facts["test_tasks"]
        self.test = Names.of(tested, [facts["test_sizes"][task] for task in tested], "test example")
        fitted = facts["fitted_on"]
        self._first = np.array(fitted["first_values"], float)  # [start, tests]
        self._rates = np.array(fitted["rates"], float)
        self._last: tuple[Curriculum, Run] | None = None

    def __repr__(self) -> str:
        return (
            f"WhatIf({self.facts['group']}, {self.metric}, {self.facts['method']}: {len(self.train)} training and "
            f"{len(self.test)} test examples, {self.steps} steps of {self.batch})"
        )

    @property
    def metric(self) -> str:
        """What is simulated: loss (nats per token), bleu (0-100) or rouge_l (0-1)."""
        return self.facts["metric"]

    @property
    def steps(self) -> int:
        """Updates of the fitting runs."""
        return self.facts["fitted_on"]["steps"]

    @property
    def batch(self) -> int:
        """Examples in a batch of the fitting runs."""
        return self.facts["fitted_on"]["batch"]

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rate of each update of the fitting runs, their mean; another schedule can be made of it."""
        return tuple(self._rates.tolist())

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the training examples that a fitting run trained on."""
        return tuple(self.train.names[i] for i in self.facts["fitted_on"]["trained"])

    # ------------------------------------------------------------------------------------------------- curricula

    def random(self, seed: int = 0, examples: Sequence[str] | None = None) -> Curriculum:
        """Return a random curriculum of the fitting runs' form: as many examples, as often each, in batches as large.

        Args:
            seed: of which examples, and their order in each epoch.
            examples: to draw from; None: all that a fitting run trained on.
        """
        generator = named_generator("whatif", seed)
        names = np.array(self.trained if examples is None else list(examples), dtype=object)
        if not len(names):
            raise UserError("a random curriculum needs examples to draw from; there are none")
        drawn = generator.permutation(names)[: self.facts["fitted_on"]["distinct"]]
        places = self.steps * self.batch
        orders = [generator.permutation(drawn) for _ in range(-(-places // len(drawn)))]
        return Curriculum.of(np.concatenate(orders)[:places].reshape(self.steps, self.batch).tolist(),
                             name=f"random-{seed}")  # fmt: skip

    def schedule(self, curriculum: Curriculum) -> Array:
        """Return the learning rate of each update of a curriculum, [steps].

        Raises:
            UserError: they are its own, and the method does not know rates.
        """
        if curriculum.rates is not None:
            if not self.engine.knows_rates:
                raise UserError(
                    f"{self._method()} knows nothing of learning rates, so it cannot answer what others would do; "
                    "gradient_response can"
                )
            return np.array(curriculum.rates)
        return self._own_rates(curriculum.steps)

    def _own_rates(self, steps: int) -> Array:
        """Return the fitting runs' learning rates, in the same form over another number of steps."""
        if steps == self.steps:
            return self._rates
        return np.interp(np.linspace(0, self.steps, steps, endpoint=False), np.arange(self.steps), self._rates)

    @cached_property
    def engine(self) -> Engine:
        """What computes the answers."""
        return make_engine(self.simulator)

    def _method(self) -> str:
        return f"{self.where}: {self.facts['method']}"

    def _run(self, curriculum: Curriculum) -> Run:
        """Return a curriculum's run; the last one is kept, as who asks about a run goes on asking about it."""
        if self._last is None or self._last[0] != curriculum:
            self._last = (
                curriculum,
                self.engine.run(self._shares(curriculum.batches), self.schedule(curriculum), self._first),
            )
        return self._last[1]

    # --------------------------------------------------------------------------------------------------- answers

    def simulate(
        self, curricula: Curriculum | Iterable[Curriculum], tests: Iterable[str] | None = None
    ) -> Trajectories:
        """Return what each curriculum would do to test examples.

        All start from the value that the fitting runs had before their first update (or first ones, where the method is
        given more; see `Trajectories.start`).

        Args:
            curricula: one or several, of one length.
            tests: names, tasks or ranges (see `Names.matching`); None: all.

        Raises:
            UserError: an example is unknown, or the method cannot answer.
        """
        asked = (curricula,) if isinstance(curricula, Curriculum) else tuple(curricula)
        if not asked:
            raise UserError("there is no curriculum to simulate")
        if len({curriculum.steps for curriculum in asked}) > 1:
            raise UserError("curricula that are simulated together need the same number of steps")
        chosen = self._tests(tests)
        runs = [(self._shares(curriculum.batches), self.schedule(curriculum)) for curriculum in asked]
        shown = barred(runs, "simulate", "runs")
        values = np.stack([self.engine.run(*run, self._first).values[:, chosen] for run in shown])
        distances = [self.engine.distance(*run) for run in runs]
        known = None if None in distances else np.array(distances, float)
        widths = [self.engine.half_widths(*run) for run in runs]
        return Trajectories(
            metric=self.metric,
            curricula=asked,
            tests=tuple(self.test.names[i] for i in chosen),
            values=values,
            half_widths=None if any(w is None for w in widths) else np.stack(widths, axis=1)[..., chosen],
            start=self.simulator.start,
            distances=known,
            notes=(
                *(note for i, c in enumerate(asked) for note in self._notes(c, None if known is None else known[i])),
                *self._impossible(values),
            ),
        )

    def compare(self, first: Curriculum, second: Curriculum, tests: Iterable[str] | None = None) -> Comparison:
        """Return what the second curriculum would make of tests more than the first; arguments as in `simulate`."""
        chosen = None if tests is None else [self.test.names[i] for i in self._tests(tests)]
        if first.steps != second.steps:
            raise UserError(
                f"{first.name} has {first.steps} steps, {second.name} {second.steps}: they cannot be compared"
            )
        return Comparison(self.simulate(first, chosen), self.simulate(second, chosen))

    def influence(
        self,
        curriculum: Curriculum,
        tests: Iterable[str] | None = None,
        of: str = FINAL,
        examples: Iterable[str] | None = None,
    ) -> Influence:
        """Return what each training example did to tests, by simulating the run without it, for each.

        Args:
            curriculum: the run.
            tests: names, tasks or ranges; None: all.
            of: final or curve.
            examples: names, tasks or ranges of training examples; None: all that the run trains on.

        Raises:
            UserError: an example is unknown or not trained on, or the method cannot answer.
        """
        if of not in (FINAL, CURVE):
            raise UserError(f"influence is on {FINAL} or {CURVE}, not on '{of}'")
        chosen = self._tests(tests)
        train = self._examples(curriculum, examples)
        run = self._run(curriculum)
        changes = self._changes(curriculum, [(name,) for name in train])
        effects = np.empty((len(train), run.values.shape[0] if of == CURVE else 1, len(chosen)))
        for start, without in _blocks(run, changes):
            kept = slice(None) if of == CURVE else slice(-1, None)
            effects[start : start + len(without)] = run.values[kept, chosen] - without[:, kept, chosen]
        return Influence(
            metric=self.metric,
            curriculum=curriculum,
            train=train,
            tests=tuple(self.test.names[i] for i in chosen),
            values=effects[:, -1],
            curves=effects if of == CURVE else None,
            notes=self._notes(curriculum, None),
        )

    def interactions(
        self, curriculum: Curriculum, examples: Iterable[str], tests: Iterable[str] | None = None
    ) -> Interactions:
        """Return what pairs of training examples do together beyond what each does, on the last value.

        With f(S) the last value without the examples S, it is f() - f(i) - f(j) + f(ij) of examples i and j: 0 where
        effects add up. Arguments as in `influence`.
        """
        chosen = self._tests(tests)
        train = self._examples(curriculum, examples)
        run = self._run(curriculum)
        first, second = np.triu_indices(len(train), 1)
        left_out = [(name,) for name in train] + [(train[i], train[j]) for i, j in zip(first, second, strict=True)]
        last = np.empty((len(left_out), len(chosen)))
        for start, without in _blocks(run, self._changes(curriculum, left_out)):
            last[start : start + len(without)] = without[:, -1, chosen]
        alone, pairs = last[: len(train)], last[len(train) :]
        values = np.zeros((len(train), len(train), len(chosen)))
        values[first, second] = run.values[-1, chosen] - alone[first] - alone[second] + pairs
        values += values.swapaxes(0, 1)
        return Interactions(self.metric, train, tuple(self.test.names[i] for i in chosen), values)

    def variations(self, curriculum: Curriculum, others: Sequence[Curriculum]) -> Array:
        """Return the trajectories of curricula that are near another one, [others, steps + 1, tests], fast.

        Raises:
            UserError: one has another number of steps or another schedule.
        """
        run = self._run(curriculum)
        changes = []
        for other in others:
            if other.steps != curriculum.steps or other.rates != curriculum.rates:
                raise UserError(f"{other.name} has other steps or learning rates than {curriculum.name}; simulate it")
            pairs = zip(curriculum.batches, other.batches, strict=True)
            changes.append(
                self._change({step: new for step, (old, new) in enumerate(pairs) if new is not old and new != old})
            )
        return run.changed(changes)

    def select(
        self,
        budget: int,
        tests: Iterable[str] | None = None,
        examples: Iterable[str] | None = None,
        labels: dict[str, str] | None = None,
        seed: int = 0,
    ) -> Curriculum:
        """Search for the curriculum of the fitting runs' form after which the mean last loss is lowest.

        Args:
            budget: how many different examples it trains on, each as often as fits.
            tests: whose loss counts; None: all.
            examples: names to choose from; None: all that a fitting run trained on. As many as `budget`: only their
                order is searched.
            labels: of each of them, whose shares stay as they are among all; None: anything may be chosen.
            seed: of the search.

        Raises:
            UserError: the budget does not fit, or the simulator is of another metric or kind.
        """
        from gptfluence.choices.search import Space, search
        from gptfluence.choices.strata import stratify
        from gptfluence.whatif.restrict import restrict

        if self.metric != "loss":
            raise UserError(f"{self._method()}: a search lowers the loss; this simulator is of {self.metric}")
        names = self.trained if examples is None else tuple(dict.fromkeys(examples))
        places = self.steps * self.batch
        if not 0 < budget <= len(names) or budget % self.batch or places % budget:
            fits = [b for b in range(self.batch, len(names) + 1, self.batch) if places % b == 0]
            raise UserError(
                f"a budget of {budget} of {len(names)} examples does not fit {self.steps} batches of {self.batch}, "
                f"each example equally often; these do: {', '.join(map(str, fits)) or 'none'}"
            )
        strata = np.zeros(len(names), np.int64)
        if labels is not None:
            missing = [name for name in names if name not in labels]
            if missing:
                raise UserError(f"labels: there is none of {missing[0]}")
            strata = stratify([labels[name] for name in names], budget // 2)
        rows, chosen = self.train.numbers(names), self._tests(tests)
        with Bar("search", None, "rounds") as bar:
            found = search(
                restrict(self.simulator, rows, chosen),
                Space(self.steps, self.batch, budget, strata),
                self._rates,
                self._first[:, chosen],
                named_generator("whatif.select", seed),
                bar.to,
            )
        return Curriculum.of([[names[i] for i in batch] for batch in found.tolist()], name=f"selected-{budget}")

    def with_texts(self, texts: dict[str, tuple[str, str]]) -> WhatIf:
        """Return the same simulator with further training examples, which it knows by their texts.

        Args:
            texts: prompt and target by name, such as ``mine:0``.

        Raises:
            UserError: the method does not know examples by their texts, or a name is taken.
        """
        encoder = self.facts.get("encoder")
        if encoder is None:
            if self.simulator.kind in (GradientResponse.kind, PooledResponse.kind):
                raise UserError(
                    f"{self._method()} knows examples by their gradients, and gradients of new texts need the model: "
                    "put them into the task's training file as unseen_pool, and run snakemake simulators; or ask a "
                    "simulator of kind gptfluence, which reads texts"
                )
            raise UserError(f"{self._method()} knows examples by their runs alone, and no run has seen new texts; "
                            "ask a simulator of kind gptfluence, which reads texts")  # fmt: skip
        taken = [name for name in texts if name in set(self.train.names)]
        if taken:
            raise UserError(f"'{taken[0]}' is an example of this simulator already; take another name")
        from gptfluence.simulators.encode import encode_texts

        vectors = encode_texts([f"{prompt} {target}" for prompt, target in texts.values()], encoder)
        extended = self.simulator.extend(vectors)
        if extended is None:
            raise UserError(f"{self._method()} takes no new training examples; fit it without interval and each_task")
        return WhatIf(
            extended, self.facts, self.where, dataclasses.replace(self.train, names=self.train.names + tuple(texts))
        )

    # ----------------------------------------------------------------------------------------------------- parts

    def _tests(self, tests: Iterable[str] | None) -> NDArray[np.int64]:
        if tests is None:
            return np.arange(len(self.test))
        found = self.test.matching([tests] if isinstance(tests, str) else tests)
        if not len(found):
            raise UserError("no test example was named")
        return found

    def _examples(self, curriculum: Curriculum, examples: Iterable[str] | None) -> tuple[str, ...]:
        if examples is None:
            return curriculum.examples
        used = set(curriculum.examples)
        names: dict[str, None] = {}
        for pattern in [examples] if isinstance(examples, str) else examples:
            matching = [self.train.names[i] for i in self.train.matching([pattern])]
            there = [name for name in matching if name in used]  # of a task or a range those that it trains on
            if not there:
                raise UserError(f"{curriculum.name} does not train on '{pattern}', so it has no influence there")
            names |= dict.fromkeys(there)
        return tuple(names)

    def _changes(self, curriculum: Curriculum, left_out: Sequence[tuple[str, ...]]) -> list[Change]:
        """Return what leaving each of some sets of examples out changes."""
        places: dict[str, dict[int, None]] = {}
        for step, batch in enumerate(curriculum.batches):
            for name in batch:
                places.setdefault(name, {})[step] = None
        changes = []
        for names in left_out:
            steps = sorted({step for name in names for step in places[name]})
            gone = set(names)
            changes.append(
                self._change(
                    {step: tuple(name for name in curriculum.batches[step] if name not in gone) for step in steps}
                )
            )
        return changes

    def _change(self, batches: dict[int, tuple[str, ...]]) -> Change:
        return Change(np.array(list(batches), np.int64), self._shares(batches.values()))

    def _shares(self, batches: Collection[tuple[str, ...]]) -> Array:
        numbers = self.train.numbers(name for batch in batches for name in batch)
        return self.engine.shares(numbers, [len(batch) for batch in batches], len(self.train))

    def _impossible(self, values: Array) -> tuple[str, ...]:
        """Say if values, [runs, steps + 1, tests], are none that the metric has in a run."""
        beyond = {"loss": values <= 0, "bleu": values > 100, "rouge_l": values > 1}[self.metric].any(axis=1)
        if not beyond.any():
            return ()
        leave = "reach 0" if self.metric == "loss" else f"leave what {self.metric} can be"
        return (f"{beyond.sum()} of {beyond.size} trajectories {leave}: here the simulator extrapolates, and promises "
                "too much",)  # fmt: skip

    def _notes(self, curriculum: Curriculum, distance: float | None) -> tuple[str, ...]:
        notes, name = [], curriculum.name
        if distance is not None and distance > FAR:
            notes.append(
                f"{name}: this curriculum is {distance:.1f} times as far from the fitted ones as any of them was from "
                "the others; what is simulated may be far off"
            )
        if curriculum.steps != self.steps:
            notes.append(f"{name}: has {curriculum.steps} steps; the simulator was fitted on runs of {self.steps}")
        size = float(np.median([len(batch) for batch in curriculum.batches]))
        if size != self.batch:
            notes.append(f"{name}: has batches of {size:g}; the simulator was fitted on batches of {self.batch}")
        others = curriculum.rates is not None and not np.allclose(curriculum.rates, self._own_rates(curriculum.steps))
        if others and self.simulator.kind == GradientResponse.kind:
            notes.append(
                f"{name}: has learning rates of its own; they weigh what its examples do, but the curve that all runs "
                "share stays as it was under the fitting runs' rates; a simulator that was fitted on several schedules "
                "(gradient_response_schedules) moves it, too"
            )
        trained = set(self.trained)
        new = [example for example in curriculum.examples if example not in trained]
        if new:
            known = (
                "their effect is 0" if self.simulator.kind == "simfluence" else "it knows them by their features alone"
            )
            notes.append(f"{name}: no fitting run trained on {len(new)} of its examples ({new[0]} ...): {known}")
        if self.simulator.start > 1:
            notes.append(
                f"{name}: {self.facts['method']} is given the first {self.simulator.start} values of a run; here they "
                "are the fitting runs' means"
            )
        return tuple(notes)


def _blocks(run: Run, changes: Sequence[Change]) -> Iterable[tuple[int, Array]]:
    """Yield the number of a first change and the trajectories of it and the next ones."""
    with Bar("simulate", len(changes), "what-ifs") as bar:
        for start in range(0, len(changes), BLOCK):
            yield start, run.changed(changes[start : start + BLOCK])
            bar.to(min(start + BLOCK, len(changes)))
