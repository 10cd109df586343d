"""Choose what a GPT is to be trained on, and in which order, for the sake of some tests.

A group's tests are halved at random, labels alike. Each half in turn is the target: for it each method chooses, and the
other half judges. All that is used of a group's tests is of the target half: simulators are fitted on its losses in the
fitting runs alone, and scores of attribution are its columns of the table. (TrackStar's table alone knows more: it
weighs its components by what gradients of all tests have in common.)

Simulators choose examples and order at once, see `search`; methods of attribution the examples with the highest mean
scores, in a random order; and random takes both at random. All train on as many examples, of each label too, as often.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from gptfluence.choices.choices_file import Chosen, write_choices
from gptfluence.choices.named import halve, list_choices
from gptfluence.choices.search import Examples, Space, search, simulated_objective
from gptfluence.choices.strata import read_targets, stratify
from gptfluence.errors import UserError
from gptfluence.randomness import named_generator
from gptfluence.simulators.base import Array, Dynamics, Features
from gptfluence.simulators.data import GroupData, load_group, read_features
from gptfluence.simulators.registry import make_method
from gptfluence.words import CHOSEN, RANDOM

LOG = logging.getLogger("gptfluence")


def choose_data(spec: dict[str, Any], output: Path) -> None:
    """Choose curricula for a group of one task.

    Args:
        spec: as for `fit_simulator` on the loss, but for method, settings and files on examples; with simulators
            ({name: settings, features, table, kernels, as there}), table (path of attribution scores; None if there are
            no scores), scores (names of methods in it), task_file (path of the task), pool (examples to choose from),
            budget (how many of them), splits, random (how many).
        output: the Parquet file to write, see `choices_file`.

    Raises:
        UserError: a file is missing, damaged or of another plan, or a method cannot be fitted.
    """
    data = load_group(spec | {"table": None})
    _, steps, batch = data.curricula.examples.shape
    tests = sum(data.sizes)
    pool_targets, test_targets = (read_targets(spec["task_file"], spec["format"], part, count)
                                  for part, count in (("pool", spec["pool"]), ("test", tests)))  # fmt: skip
    space = Space(steps, batch, spec["budget"], stratify(pool_targets, spec["budget"] // 2))
    test_strata = stratify(test_targets, tests // 2)
    features = {name: read_features(spec | method) for name, method in spec["simulators"].items()}
    scores = _read_scores(spec)
    group = spec["group"]
    choices = list_choices(list(features), list(scores), spec["splits"], spec["random"])
    # Whoever chooses examples alone has its own random order.
    generators = {choice.name: named_generator("choices", group, choice.name) for choice in choices}
    random = {c.name: space.draw(generators[c.name]) for c in choices if c.method == RANDOM}
    found: list[Chosen] = [Chosen(c, np.empty(0, np.int64), random[c.name]) for c in choices if c.method == RANDOM]
    by_name = {choice.name: choice for choice in choices}
    for split in range(1, spec["splits"] + 1):
        for half, target in enumerate(halve(group, split, test_strata)):
            names = {(c.method, c.order): c.name for c in choices if (c.split, c.half) == (split, half)}
            for method, known in features.items():
                name, loose = names[method, CHOSEN], names[method, RANDOM]
                chosen, predict = _simulator_choice(spec, method, data, known, target, space, generators[name])
                at_random = float(predict(np.stack(list(random.values()))).mean())
                any_order = space.arrange(np.unique(chosen), generators[loose])
                for key, examples in ((name, chosen), (loose, any_order)):
                    predicted = float(predict(examples[None])[0])
                    found.append(Chosen(by_name[key], target, examples, predicted, at_random))
                LOG.info("%s: for tests %s, a loss of %.4f is predicted of %s's choice, of random ones %.4f",
                         group, target.tolist(), found[-2].predicted, method, at_random)  # fmt: skip
            for method, table in scores.items():
                best = np.argsort(-table[: space.pool, target].mean(axis=1), kind="stable")
                name = names[method, RANDOM]
                examples = space.arrange(space.first(best), generators[name])
                found.append(Chosen(by_name[name], target, examples))
    provenance = {key: spec[key] for key in ("group", "pool", "budget", "splits", "random", "scores")}
    runs = {run["run_id"]: {"split": run["split"], "hash": run["hash"]} for run in spec["runs"]}
    write_choices(output, found, provenance | {"simulators": list(features), "tests": tests, "runs": runs})


def _read_scores(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of scores of the methods that choose, [train, tests] each."""
    if not spec["scores"]:
        return {}
    attribution = read_features(spec).attribution
    assert attribution is not None
    missing = [name for name in spec["scores"] if name not in attribution.scores]
    if missing:
        raise UserError(f"{spec['table']}: has no scores of {', '.join(missing)}. Delete it and run snakemake again.")
    return {name: attribution.scores[name] for name in spec["scores"]}


def _simulator_choice(
    spec: dict[str, Any],
    method: str,
    data: GroupData,
    features: Features,
    target: Examples,
    space: Space,
    generator: np.random.Generator,
) -> tuple[Examples, Any]:
    """Fit a simulator on the target tests alone; return its choice, and what it predicts of any curricula."""
    simulator = make_method(method, spec["simulators"][method]["settings"])
    dynamics = Dynamics(data.dynamics.values[..., target], data.dynamics.validate)
    simulator.fit(dynamics, data.curricula, features.of_tests(target))
    rates: Array = data.curricula.rates[0]
    first = dynamics.values[~dynamics.validate, : simulator.start].mean(axis=0)
    chosen = search(simulator, space, rates, first, generator)
    return chosen, simulated_objective(simulator, rates, first)
