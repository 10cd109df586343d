"""What gradients say of each step of a run: the run is trained again, and its steps' effects on all tests are taken.

With theta_t the weights after step t, eta_t the rate of step t and g_t its batch's gradient at theta_{t-1}, step t
changes the loss of test example z, to first order, by

* tracin: -eta_t <g_t, grad L_z(theta_{t-1})>, as though SGD had trained [TracIn, arXiv 2002.08484, eq. 1].
* tracin_adamw: <theta_t - theta_{t-1}, grad L_z(theta_{t-1})>, along AdamW's own step, weight decay included: the most
  that a method of the first order can say.
* tracin_cp: as tracin, with both gradients at the last of a few checkpoints: theta_0 and others in equal distances
  [TracInCP; GPTfluence, arXiv 2404.07840, eq. 1].
* grad_dot: as tracin, with both gradients at the end of the run [GPTfluence, eq. 2].

Weights are kept of no step: a second model follows the run one step behind, and what a step does to all tests is taken
as soon as its direction is known. For TracIn-CP and Grad-Dot each training example is multiplied with each test once a
checkpoint, however often it is drawn. So beside the training there stand in memory one more model, the directions
(each as large as what is trained), and for the two last methods the products of a checkpoint, [drawn examples, tests].

The gradient of an update is the one that it was made with: with dropout, and in the precision of the run. All other
gradients are taken without dropout and in fp32.
"""

from __future__ import annotations

import copy
import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from gptfluence.attribution.directional import Direction, loss_changes
from gptfluence.attribution.effects_file import Effects, read_effects, write_effects
from gptfluence.attribution.hooks import ExampleGradients, gradient_products
from gptfluence.attribution.kernels import lengths
from gptfluence.curricula.draw import read_curriculum
from gptfluence.dynamics.checkpoints import SCRATCH, Training
from gptfluence.dynamics.collect import Settings, evaluate, update
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.gangs import Gang
from gptfluence.dynamics.models import add_adapters, pick_device
from gptfluence.dynamics.packing import Stream
from gptfluence.dynamics.trainer import Trainer
from gptfluence.errors import UserError, did_you_mean
from gptfluence.io import read_parquet, read_provenance
from gptfluence.notes import Notes

LOG = logging.getLogger("gptfluence")

METHODS = ("tracin", "tracin_adamw", "tracin_cp", "grad_dot")

_TOLERANCE = 1e-4  # relative; between the final losses of a run and of its replay


def replay_runs(spec: dict[str, Any], output: Path) -> None:
    """Train runs again and write what gradients say of their steps: see `effects_file`.

    A run that was replayed before this job was interrupted is not replayed again.

    Args:
        spec: as for `train_runs`, whose runs are those to replay, with methods (some of `METHODS`) and checkpoints
            (how many; of tracin_cp).
        output: the Parquet file to write: by method, run and step.

    Raises:
        UserError: a run's inputs are missing, its replay does not end in its recorded losses, or a gradient is not
            finite.
    """
    for method in spec["methods"]:
        if method not in METHODS:
            choices = ", ".join(METHODS)
            raise UserError(f"no replay '{method}'{did_you_mean(method, METHODS)}; there are {choices}")
    origin = _origin(spec)
    kept: dict[str, Effects] = {}
    for run in spec["runs"]:
        if (effects := _kept(run, origin)) is not None:
            LOG.info("run %s: replayed before, kept", run["run_id"])
            kept[run["run_id"]] = effects
    todo = [run for run in spec["runs"] if run["run_id"] not in kept]
    if todo:
        reruns = Reruns(spec)
        for run in todo:
            effects = step_effects(reruns.start(run), spec["methods"], spec["checkpoints"])
            kept[run["run_id"]] = {(method, run["run_id"]): values for method, values in effects.items()}
            write_effects(_scratch(run), kept[run["run_id"]], origin | {"hash": run["hash"]})
    ordered = {key: kept[key[1]][key] for key in ((m, run["run_id"]) for m in spec["methods"] for run in spec["runs"])}
    write_effects(output, ordered, origin | {"runs": {run["run_id"]: run["hash"] for run in spec["runs"]}})
    for run in spec["runs"]:
        _scratch(run).unlink(missing_ok=True)


def _origin(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what all effects of a job are made from, beside the runs."""
    keys = ("methods", "checkpoints", "model", "optimizer", "evaluation_tokens", "precision", "compile", "code")
    return {
        **{key: spec[key] for key in keys},
        "tasks": {task: Path(path).name for task, path in spec["tasks"].items()},
        "device": pick_device().type,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _scratch(run: dict[str, Any]) -> Path:
    """Return where a replayed run is kept until all are."""
    return SCRATCH / f"{run['run_id']}.{run['hash']}.parquet"


def _kept(run: dict[str, Any], origin: dict[str, Any]) -> Effects | None:
    path = _scratch(run)
    if not path.exists():
        return None
    try:
        if read_provenance(path) == origin | {"hash": run["hash"]}:
            return read_effects(path)
    except UserError as error:
        LOG.warning("%s", error)
    LOG.info("run %s: %s is damaged or of other settings, replayed anew", run["run_id"], path)
    return None


# -------------------------------------------------------------------------------------------------------- reruns


class Reruns:
    """Trains runs again as `dynamics.train` did; texts are left out, as their random numbers are nobody else's.

    Args:
        spec: as for `train_runs`.

    Attributes:
        inputs: what the runs read; their tests are those of the dynamics, in the same order.
        budget: of what is read in one go.
        device: on which all is computed.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.device = pick_device()
        self._lora = spec["model"]["lora"]
        without_texts = spec | {"metrics": {task: ["loss"] for task in spec["metrics"]}}
        self._trainer = Trainer(without_texts, self.device)
        self.inputs, self.budget = self._trainer.inputs, self._trainer.settings.budget

    def start(self, run: dict[str, Any]) -> Rerun:
        """Return a run before its first step.

        Raises:
            UserError: its curriculum is missing or damaged.
        """
        curriculum = read_curriculum(run, run["curriculum"])
        follower = add_adapters(self._copy(), self._lora).eval()
        training = self._trainer.start(run, self._copy())
        gang = Gang([training.model], self._trainer.joined)
        rerun = Rerun(run, curriculum, self, training, follower, gang, self._trainer.settings)
        rerun.follow()  # adapters begin with random numbers
        return rerun

    def _copy(self) -> torch.nn.Module:
        """Copy the model; beside adapters its weights stay as they are, so that all copies share them."""
        shared = self._trainer.base.parameters() if self._lora else ()
        return copy.deepcopy(self._trainer.base, {id(parameter): parameter for parameter in shared})


class Rerun:
    """One run that is trained again.

    Attributes:
        run: its row.
        curriculum: the (task, example) pairs of each step.
        reruns: what it shares with others.
        training: the run itself.
        follower: a model whose weights are the run's when `follow` was last called; never compiled, without dropout.
    """

    def __init__(
        self,
        run: dict[str, Any],
        curriculum: list[list[tuple[str, int]]],
        reruns: Reruns,
        training: Training,
        follower: torch.nn.Module,
        gang: Gang,
        settings: Settings,
    ) -> None:
        self.run, self.curriculum, self.reruns = run, curriculum, reruns
        self.training, self.follower = training, follower
        self._gang, self._settings = gang, settings
        self._pairs = {
            name: (own, theirs)
            for (name, own), theirs in zip(follower.named_parameters(), training.model.parameters(), strict=True)
            if theirs.requires_grad
        }

    def rate(self, step: int) -> float:
        """Return the learning rate of an update (from 0)."""
        schedule = self.training.schedule
        return schedule.base_lrs[0] * schedule.lr_lambdas[0](step)

    def examples(self, step: int) -> list[Encoded]:
        """Return the batch of an update (from 0)."""
        return [self.reruns.inputs.train[key] for key in self.curriculum[step]]

    def update(self) -> None:
        """Do the next update as the run did it."""
        pack = self.reruns.inputs.train_pack(self.curriculum[self.training.step])
        self._gang.train(True)
        reader, stream = self._gang.reader([0]), Stream.of([pack], self.reruns.device)
        update(reader, stream, [self.training], self._settings)
        self.training.step += 1

    def update_to(self, step: int) -> None:
        """Do all updates before one, and have the follower follow."""
        while self.training.step < step:
            self.update()
        self.follow()

    def drawn(self) -> list[tuple[str, int]]:
        """Return task and number of each example that the run is trained on, in the order of their first use."""
        return list(dict.fromkeys(key for batch in self.curriculum for key in batch))

    @torch.no_grad()
    def gradient_step(self) -> Direction:
        """Return the step that SGD would have made of the last update's gradient and rate."""
        rate = self.rate(self.training.step - 1)
        return {name: theirs.grad * -rate for name, (_, theirs) in self._pairs.items() if theirs.grad is not None}

    @torch.no_grad()
    def own_step(self) -> Direction:
        """Return by how much the weights have moved since `follow` was last called."""
        return {name: theirs - own for name, (own, theirs) in self._pairs.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Give the follower the run's weights as they are now."""
        for own, theirs in self._pairs.values():
            own.copy_(theirs)

    def losses(self) -> NDArray[np.float32]:
        """Measure all test examples as the run did: [tests]."""
        autocast = self._settings.autocast
        self._gang.train(False)
        with torch.autocast(self.reruns.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            evaluate(self._gang, {0: self.training}, self.reruns.inputs, self._settings)
        return self.training.losses[self.training.step]


# ------------------------------------------------------------------------------------------------------- effects


def step_effects(rerun: Rerun, methods: Sequence[str], checkpoints: int) -> dict[str, NDArray[np.float32]]:
    """Train a run again to its end and return what gradients say of its steps.

    Args:
        rerun: before its first step.
        methods: some of `METHODS`.
        checkpoints: how many tracin_cp has.

    Returns:
        By method [steps, tests]: by how much each step changes each test's loss, in nats per token.

    Raises:
        UserError: the run does not end in its recorded losses, or a gradient is not finite.
    """
    run, packs = rerun.run, rerun.reruns.inputs.packs
    shape = run["steps"], len(rerun.reruns.inputs.test_examples)
    effects = {method: np.empty(shape, np.float32) for method in methods}
    spans = {span.start: span for span in checkpoint_spans(run["steps"], checkpoints)}
    notes = Notes()
    for step in range(run["steps"]):
        if "tracin_cp" in effects and step in spans:
            span = spans[step]
            effects["tracin_cp"][span.start : span.stop] = _effects_now(rerun, span)
        rerun.update()
        for method, direction in (("tracin", rerun.gradient_step), ("tracin_adamw", rerun.own_step)):
            if method in effects:
                _, changes = loss_changes(rerun.follower, packs, direction())
                effects[method][step] = changes.cpu().numpy()
        rerun.follow()
        if notes.due():
            LOG.info("run %s: step %d of %d replayed, %.0f s left", run["run_id"], step + 1, run["steps"],
                     notes.left(step + 1, run["steps"]))  # fmt: skip
    _check_end(rerun)
    if "grad_dot" in effects:
        effects["grad_dot"][:] = _effects_now(rerun, range(run["steps"]))
    LOG.info("run %s: replayed, %d steps in %.1f s", run["run_id"], run["steps"], notes.passed())
    return effects


def checkpoint_spans(steps: int, checkpoints: int) -> list[range]:
    """Return the updates (from 0) that each of some checkpoints stands for: equally many, and it is before the first.

    A run of fewer steps has a checkpoint before each.
    """
    starts = np.unique(np.arange(checkpoints) * steps // checkpoints).tolist()
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], steps], strict=True)]


def batch_shares(batch: Sequence[Encoded]) -> NDArray[np.float64]:
    """Return each example's share n_i / N of a batch's loss, which is the mean over its target tokens: [batch]."""
    tokens = np.array([example.target for example in batch], float)
    return tokens / tokens.sum()


def example_effects(
    gradients: ExampleGradients, batch: Sequence[Encoded], tests: Sequence[Encoded], rate: float, budget: Budget
) -> NDArray[np.float64]:
    """Return by how much each example of a batch changes each test's loss in one step of SGD, to first order.

    They add up to the batch's own effect, which is the derivative along its gradient times -rate.

    Args:
        gradients: of the model that makes the step.
        rate: the learning rate of the step.
        budget: of what is read in one go.

    Returns:
        [batch, tests], in nats per token: -rate * n_i / N * <g_i, g_z>.
    """
    return -rate * batch_shares(batch)[:, None] * gradient_products(gradients, batch, tests, budget)


def _effects_now(rerun: Rerun, steps: range) -> NDArray[np.float64]:
    """Return what the batches of some updates would do with the follower's weights: [steps, tests]."""
    drawn = list(dict.fromkeys(key for step in steps for key in rerun.curriculum[step]))
    place = {key: i for i, key in enumerate(drawn)}
    weights = np.zeros((len(steps), len(drawn)))
    for row, step in enumerate(steps):
        columns = [place[key] for key in rerun.curriculum[step]]
        np.add.at(weights[row], columns, -rerun.rate(step) * batch_shares(rerun.examples(step)))
    examples = [rerun.reruns.inputs.train[key] for key in drawn]
    gradients = ExampleGradients(rerun.follower, "all")
    return weights @ gradient_products(gradients, examples, rerun.reruns.inputs.test_examples, rerun.reruns.budget)


def _check_end(rerun: Rerun) -> None:
    """Compare a replay's final losses with those of the run's shard, if it stands.

    Raises:
        UserError: they differ.
    """
    run, path = rerun.run, Path(rerun.run["shard"])
    if not path.exists():
        LOG.info("run %s: %s does not stand, so its replay is not compared", run["run_id"], path)
        return
    found = rerun.losses()
    table = read_parquet(path, ["step", "task", "example", "loss"])
    last = table.filter(pc.equal(table["step"], run["steps"]))
    keys = zip(last["task"].to_pylist(), last["example"].to_pylist(), strict=True)
    losses = dict(zip(keys, last["loss"].to_pylist(), strict=True))
    tests = rerun.reruns.inputs.tests
    recorded = np.array([losses.get(test, np.nan) for test in tests], np.float32)
    differs = ~np.isclose(found, recorded, rtol=_TOLERANCE, atol=0, equal_nan=True)
    if differs.any():
        i = int(np.flatnonzero(differs)[0])
        made = read_provenance(path)
        here = f"{rerun.reruns.device.type}, torch {torch.__version__}"
        raise UserError(
            f"{path}: run {run['run_id']} could not be reproduced here: {differs.sum()} of {len(tests)} final losses "
            f"differ from the recorded ones, the first that of {tests[i][0]} {tests[i][1]}: {recorded[i]:.6g} "
            f"recorded, {found[i]:.6g} here. It was recorded on {made['device']}, torch {made['versions']['torch']}; "
            f"this is {here}. Other devices or versions round otherwise: replay it where it was trained, or delete "
            "the shard and run snakemake again."
        )


# ------------------------------------------------------------------------------------------------ self-influence


def self_influence(rerun: Rerun, checkpoints: int) -> dict[tuple[str, int], float]:
    """Train a run again up to its last checkpoint; return TracIn's self-influence of what it is trained on.

    That is the sum of eta |g_i|^2 over checkpoints, as tracin_cp has them; eta is the rate of the update that follows.
    An example of a wrong label is expected to have a large one [TracIn, arXiv 2002.08484, section 4.1].

    Args:
        rerun: before its first step.
        checkpoints: how many.

    Returns:
        By task and number.

    Raises:
        UserError: a gradient is not finite.
    """
    run, drawn = rerun.run, rerun.drawn()
    examples = [rerun.reruns.inputs.train[key] for key in drawn]
    found = np.zeros(len(drawn))
    for span in checkpoint_spans(run["steps"], checkpoints):
        rerun.update_to(span.start)
        gradients = ExampleGradients(rerun.follower, "all")
        found += rerun.rate(span.start) * lengths(gradients, examples, rerun.reruns.budget) ** 2
        LOG.info("run %s: self-influence before step %d of %d", run["run_id"], span.start + 1, run["steps"])
    return dict(zip(drawn, found.tolist(), strict=True))
