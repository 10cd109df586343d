"""The job that scores every pair of a training and a test example of a group, by all attribution methods.

The group's first fitting run is trained again (see `replay`), and what needs gradients takes them at checkpoints of it.
Scores are above zero where training on the one example helps the other. Those of grad_dot and tracin_cp are in units of
the loss: a step of SGD with rate eta, in which the example has the share w, changes the test's loss by -eta w times the
score. The others' units are their own.

* random, length (target tokens), loss (of the training example, at the run's end): the same for every test, but random.
* bm25, encoder_cosine: of prompt and target together.
* grad_dot, grad_cosine: products and cosines of the two gradients at the run's end.
* tracin_cp: products at checkpoints, their mean weighted by the rates of the updates that follow.
* less, trak, trackstar: see their modules. trackstar takes V from the run's AdamW at its end; no_correction leaves V
  out, no_hessian R, no_mix the tests' share of R, no_norm the unit length, no_projection P.
* ekfac: influence functions at the run's end, see `ekfac`. tail_patch: one real step, see `tail_patch`.

Memory: the model twice; a pack's activations, and of its gradients those of one parameter, a few times 64 MiB, or a few
times one example's where these are larger. Beside this, each pair's score, and for less, trak and trackstar each
example's projected gradients; trackstar_no_projection holds the activations of all examples.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from gptfluence.attribution import kernels, texts, trackstar
from gptfluence.attribution.hooks import ExampleGradients, gradient_products, of_tests
from gptfluence.attribution.replay import Reruns, checkpoint_spans
from gptfluence.attribution.table_file import ScoreTables, write_table_file
from gptfluence.attribution.tail_patch import tail_patch
from gptfluence.attribution.vectors import cosines
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import measure, pack_by_length
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_json
from gptfluence.simulators.data import read_features

LOG = logging.getLogger("gptfluence")

Scores = NDArray[np.float32]
T = TypeVar("T")

_AT_CHECKPOINTS = ("tracin_cp", "less", "trak")
_WITHOUT_MODEL = ("random", "length", "bm25", "encoder_cosine")
_ABLATIONS: dict[str, dict[str, bool]] = {
    "trackstar": {},
    "trackstar_no_correction": {},
    "trackstar_no_hessian": {"hessian": False},
    "trackstar_no_mix": {"mix": False},
    "trackstar_no_norm": {"norm": False},
}


def attribute_examples(spec: dict[str, Any], output: Path, seconds_output: Path) -> None:
    """Score all pairs of training and test examples.

    Args:
        spec: as for `train_runs`, with one run, whose checkpoints are used; and group, format, train_tasks, train_size,
            test_tasks, test_sizes, features (path of the text features, or None), methods, and settings: checkpoints,
            parameters, projection, damping, seed.
        output: the Parquet file to write, see `table_file`.
        seconds_output: JSON {method: CPU seconds}; what methods share is counted in each of them.

    Raises:
        UserError: an input is missing or damaged, a gradient is not finite, or a method needs what is not installed.
    """
    job = _Job(spec)
    scores = job.scores()
    for method, values in scores.items():
        if not np.isfinite(values).all():
            i, z = np.argwhere(~np.isfinite(values))[0]
            raise UserError(f"{spec['group']}: {method} of training example {i} on test {z} is {values[i, z]}")
    (run,) = spec["runs"]
    provenance = {key: spec[key] for key in ("group", "format", "train_tasks", "train_size", "test_tasks",
                                             "test_sizes", "methods", "settings", "code")}  # fmt: skip
    provenance["run"] = {"run_id": run["run_id"], "hash": run["hash"]}
    write_table_file(output, job.keys, ScoreTables(job.tokens, scores), provenance)
    write_json(seconds_output, {method: round(seconds, 3) for method, seconds in job.seconds.items()})


class _Job:
    """What the methods of one group share.

    Attributes:
        keys: task and number of each training example.
        tokens: [train]; of their targets.
        seconds: CPU seconds of each method so far.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec, self._settings = spec, spec["settings"]
        self.keys = [(task, number) for task in spec["train_tasks"] for number in range(spec["train_size"])]
        self.seconds: dict[str, float] = defaultdict(float)
        self._methods = list(spec["methods"])
        (run,) = spec["runs"]
        # What no run draws is scored as well.
        reruns = Reruns(spec | {"runs": [run, run | {"pool": "unseen_pool"}]})
        self._budget = reruns.budget
        self._train: list[Encoded] = [reruns.inputs.train[key] for key in self.keys]
        self._tests: list[Encoded] = reruns.inputs.test_examples
        self.tokens = np.array([example.target for example in self._train])
        self._rerun = reruns.start(run)
        self._found: dict[str, NDArray[np.floating]] = {}

    def scores(self) -> dict[str, Scores]:
        """Return [train, tests] of each method."""
        self._without_model()
        if set(self._methods) - set(_WITHOUT_MODEL):
            self._at_checkpoints()
            self._at_the_end()
        return {method: self._found[method].astype(np.float32) for method in self._methods}

    # ----------------------------------------------------------------------------------------------------- parts

    @contextlib.contextmanager
    def _timed(self, *methods: str) -> Iterator[bool]:
        """Count a part's time in the methods that need it; says whether any of them is asked for."""
        asked = [method for method in methods if method in self._methods]
        began = time.process_time()
        try:
            yield bool(asked)
        except UserError as error:
            raise UserError(f"{self._spec['group']}: {', '.join(asked)}: {error}") from error
        passed = time.process_time() - began
        for method in asked:
            self.seconds[method] += passed
        if asked and passed > 1:
            LOG.info("%s: %s: %.1f s", self._spec["group"], ", ".join(asked), passed)

    def _without_model(self) -> None:
        count, tests = len(self._train), len(self._tests)
        with self._timed("random") as asked:
            if asked:
                self._found["random"] = texts.random_scores(count, tests, self._settings["seed"])
        with self._timed("length") as asked:
            if asked:
                self._found["length"] = texts.for_all_tests(self.tokens, tests)
        with self._timed("bm25") as asked:
            if asked:
                self._found["bm25"] = texts.bm25(*self._texts())
        with self._timed("encoder_cosine") as asked:
            if asked:
                features = read_features(self._spec)
                self._found["encoder_cosine"] = cosines(features.train, features.test)

    def _texts(self) -> tuple[list[str], list[str]]:
        """Return prompt and target of all training and test examples, in their order."""
        found: dict[tuple[str, bool, int], str] = {}
        for task, path in self._spec["tasks"].items():
            table = read_parquet(path, ["part", "example", "format", "prompt", "target"])
            for row in table.filter(pc.equal(table["format"], self._spec["format"])).to_pylist():
                found[task, row["part"] == "test", row["example"]] = f"{row['prompt']} {row['target']}"
        tests = [(task, i) for task in self._spec["test_tasks"] for i in range(self._spec["test_sizes"][task])]
        return [found[task, False, i] for task, i in self.keys], [found[task, True, i] for task, i in tests]

    def _at_checkpoints(self) -> None:
        """Train the run to its end, with stops for what looks at checkpoints."""
        (run,) = self._spec["runs"]
        spans = {span.start: span for span in checkpoint_spans(run["steps"], self._settings["checkpoints"])}
        rates, products, cosines = 0.0, 0.0, 0.0
        kernel, wrong = 0.0, 0.0
        rerun = self._rerun
        needs_run = [method for method in self._methods if method not in _WITHOUT_MODEL]
        for step in range(run["steps"]):
            if step in spans and set(_AT_CHECKPOINTS) & set(self._methods):
                rerun.follow()
                gradients, rate = ExampleGradients(rerun.follower, self._settings["parameters"]), rerun.rate(step)
                rates += rate
                with self._timed("tracin_cp") as asked:
                    if asked:
                        products += rate * gradient_products(gradients, self._train, self._tests, self._budget)
                with self._timed("less") as asked:
                    if asked:
                        cosines += rate * self._less(gradients)
                with self._timed("trak") as asked:
                    if asked:
                        own, weights = self._trak(gradients)
                        kernel, wrong = kernel + own / len(spans), wrong + weights / len(spans)
            with self._timed(*needs_run):
                rerun.update()
        rerun.follow()
        known = {"tracin_cp": lambda: products / rates, "less": lambda: cosines / rates,
                 "trak": lambda: kernel * np.asarray(wrong)[:, None]}  # fmt: skip
        self._found |= {method: value() for method, value in known.items() if method in self._methods}

    def _less(self, gradients: ExampleGradients) -> NDArray[np.float32]:
        training = self._rerun.training
        moments = kernels.adam_moments(training.model, training.optimizer)
        return kernels.less(gradients, self._train, self._tests, moments, self._settings, self._spec["optimizer"],
                            self._budget)  # fmt: skip

    def _trak(self, gradients: ExampleGradients) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        train, tests = self._of_both(lambda some: kernels.log_odds(gradients, some, self._settings, self._budget))
        return kernels.trak(train, tests, self._settings["damping"])

    def _at_the_end(self) -> None:
        gradients = ExampleGradients(self._rerun.follower, self._settings["parameters"])
        with self._timed("grad_dot", "grad_cosine") as asked:
            if asked:
                self._found["grad_dot"] = gradient_products(gradients, self._train, self._tests, self._budget)
        with self._timed("grad_cosine") as asked:
            if asked:
                norms = self._of_both(lambda some: kernels.lengths(gradients, some, self._budget))
                self._found["grad_cosine"] = self._found["grad_dot"] / np.outer(*norms)
        with self._timed("loss") as asked:
            if asked:
                losses = measure(self._rerun.follower, pack_by_length(self._train, self._budget))
                self._found["loss"] = texts.for_all_tests(losses, len(self._tests))
        self._trackstar(gradients)
        with self._timed("ekfac") as asked:
            if asked:
                from gptfluence.attribution.ekfac import ekfac_scores

                settings = {key: self._settings[key] for key in ("damping", "seed")}
                self._found["ekfac"] = ekfac_scores(self._rerun.follower, self._train, self._tests, settings)
        with self._timed("tail_patch") as asked:
            if asked:
                self._found["tail_patch"] = tail_patch(self._rerun, self._train)

    def _trackstar(self, gradients: ExampleGradients) -> None:
        damping = self._settings["damping"]
        projected = [method for method in _ABLATIONS if method in self._methods]
        with self._timed(*(method for method in projected if method != "trackstar_no_correction")) as asked:
            corrected = self._encodings(gradients, self._second_moments()) if asked else None
        for method in projected:
            with self._timed(method):
                own = self._encodings(gradients, None) if method == "trackstar_no_correction" else corrected
                assert own is not None
                self._found[method] = trackstar.scores(*own, damping, **_ABLATIONS[method])
        with self._timed("trackstar_no_projection") as asked:
            if asked:
                self._found["trackstar_no_projection"] = trackstar.whole_scores(
                    gradients, self._train, self._tests, self._second_moments(), damping, self._budget
                )

    def _second_moments(self) -> dict[str, torch.Tensor]:
        """Return AdamW's at the run's end, bias-corrected, by names of parameters."""
        beta2 = self._spec["optimizer"]["beta2"]
        state = kernels.adam_moments(self._rerun.training.model, self._rerun.training.optimizer)
        return {name: own.second / (1 - beta2**own.step) for name, own in state.items()}

    def _encodings(
        self, gradients: ExampleGradients, moments: trackstar.Moments | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        encoder = trackstar.Encoder(gradients, self._settings, moments)
        train, tests = self._of_both(lambda some: encoder.encode_all(some, self._budget))
        return train, tests, encoder.groups

    def _of_both(self, take: Callable[[list[Encoded]], T]) -> tuple[T, T]:
        """Take something of the training and of the test examples."""
        train = take(self._train)
        with of_tests():
            return train, take(self._tests)
