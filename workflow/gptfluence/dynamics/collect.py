"""Train the runs of a gang in step with each other, and measure each before every update.

Per step and run: the loss of every test example, a sample of those whose texts are scored, then one update.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gptfluence.dynamics.checkpoints import Interruptions, Scratch, Training
from gptfluence.dynamics.cuts import Budget, held_tokens
from gptfluence.dynamics.gangs import Gang
from gptfluence.dynamics.generate import Sampling, Texts, generate, sampling_numbers
from gptfluence.dynamics.inputs import Inputs, Text
from gptfluence.dynamics.packing import Reader, Stream, mean_losses, token_losses, within_budget
from gptfluence.dynamics.text_metrics import Scorer
from gptfluence.notes import Notes

LOG = logging.getLogger("gptfluence")


@dataclass
class Trainee:
    """A run under way.

    Attributes:
        run: its row.
        curriculum: the (task, example) pairs of each step.
        training: all that changes while it trains.
        scratch: where its checkpoints are kept.
    """

    run: dict[str, Any]
    curriculum: Sequence[Sequence[tuple[str, int]]]
    training: Training
    scratch: Scratch

    def measured_steps(self) -> list[int]:
        """Return the steps at which it is measured, in order."""
        steps: int = self.run["steps"]
        return [0, steps] if self.run["ends_alone"] else list(range(steps + 1))


@dataclass(frozen=True)
class Settings:
    """How much is computed at once, and how texts are sampled.

    Attributes:
        budget: of what is read in one go.
        text_tokens: most tokens of the texts sampled together, over all runs.
        autocast: the type that products of matrices are computed in; None: as the weights are.
    """

    budget: Budget
    text_tokens: int
    sampling: Sampling
    autocast: torch.dtype | None


def train_gang(
    gang: Gang,
    trainees: Sequence[Trainee],
    inputs: Inputs,
    settings: Settings,
    scorer: Scorer | None,
    interruptions: Interruptions,
    finish: Callable[[Trainee], None],
) -> None:
    """Train runs to their ends, each from the step where it stands.

    Args:
        gang: their models.
        scorer: of the texts; None where no text is scored.
        finish: called with each run as soon as all of it is known.
    """
    open_scores = _OpenScores(scorer, inputs)
    left = list(range(len(trainees)))
    measured_at = [set(trainee.measured_steps()) for trainee in trainees]
    notes = Notes()
    done = 0
    try:
        while left:
            # Runs that went on from an earlier step than others catch up first.
            step = min(trainees[i].training.step for i in left)
            now = [i for i in left if trainees[i].training.step == step]
            # Up to the update nothing changes but what is measured: an interrupted step is measured anew.
            gang.train(False)
            measured = [i for i in now if step in measured_at[i]]
            with _precision(settings, inputs.device):
                evaluate(gang, {i: trainees[i].training for i in measured}, inputs, settings)
                samples = _sample(gang, measured, trainees, inputs, settings)
            with interruptions.held():
                open_scores.settle()
                open_scores.ask(samples)
            going = [i for i in now if step < trainees[i].run["steps"]]
            gang.train(True)
            packs = [(i, inputs.train_pack(trainees[i].curriculum[step])) for i in going]
            for part in within_budget(packs, settings.budget):
                updated = [trainees[i] for i, _ in part]
                with interruptions.held():
                    for trainee in updated:
                        trainee.training.whole = False
                    stream = Stream.of([pack for _, pack in part], inputs.device)
                    reader = gang.reader([i for i, _ in part])
                    update(reader, stream, [trainee.training for trainee in updated], settings)
                    for trainee in updated:
                        trainee.training.step += 1
                        trainee.training.whole = True
            ended = [i for i in now if i not in going]
            for i in left:
                if i not in ended:
                    trainees[i].scratch.between_steps(open_scores.settle)
            if ended:
                with interruptions.held():
                    open_scores.settle()
                for i in ended:
                    left.remove(i)
                    finish(trainees[i])
            done += 1
            if left and notes.due():
                run = trainees[left[0]].run
                more = f" and {len(left) - 1} more" if len(left) > 1 else ""
                LOG.info("run %s%s: step %d of %d, %.2f s a step",
                         run["run_id"], more, step, run["steps"], notes.passed() / done)  # fmt: skip
    except BaseException as error:
        try:
            open_scores.settle()
        except RuntimeError:  # without the last scores no checkpoint can be written; the first error says more
            raise error from None
        # Also the runs that are not to blame for an error go on from where they are.
        for i in left:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                trainees[i].scratch.stop()
            else:
                trainees[i].scratch.keep()
        raise


@torch.no_grad()  # not inference_mode: there, weights would be cast to bf16 anew at every call
def evaluate(gang: Gang, trainings: dict[int, Training], inputs: Inputs, settings: Settings) -> None:
    """Measure the mean loss over the target tokens of each test example, in nats per token, at each run's step.

    Args:
        trainings: by their numbers in the gang.
    """
    measured = []
    for number, pack in enumerate(inputs.packs):
        for part in within_budget([(i, pack) for i in trainings], settings.budget):
            members = [i for i, _ in part]
            losses = mean_losses(gang.reader(members), inputs.test_stream(number, len(members)))
            measured.append((members, pack.rows, losses))
    # Fetched at the end: a GPU is not waited for between two packs.
    for members, rows, losses in measured:
        for i, part in zip(members, losses.cpu().numpy().reshape(len(members), -1), strict=True):
            trainings[i].losses[trainings[i].step, rows] = part


def update(reader: Reader, stream: Stream, trainings: Sequence[Training], settings: Settings) -> None:
    """Do one optimiser step of each run on the mean loss over its batch's target tokens.

    Args:
        stream: one pack of each run.
    """
    with _precision(settings, stream.tokens.device):
        losses = token_losses(reader, stream)
    means = [part.mean() for part in losses.split(stream.logits_of)]
    for training in trainings:
        training.optimizer.zero_grad(set_to_none=True)
    # No run's loss depends on another's weights: the gradient of the sum is each run's own.
    torch.stack(means).sum().backward()
    for training in trainings:
        training.optimizer.step()
        training.schedule.step()


@contextlib.contextmanager
def _precision(settings: Settings, device: torch.device) -> Any:
    with torch.autocast(device.type, settings.autocast or torch.bfloat16, enabled=settings.autocast is not None):
        yield


# --------------------------------------------------------------------------------------------------------- texts


@dataclass(frozen=True)
class _Sample:
    training: Training
    step: int
    text: Text
    tokens: tuple[int, ...]


def _sample(
    gang: Gang, members: Sequence[int], trainees: Sequence[Trainee], inputs: Inputs, settings: Settings
) -> list[_Sample]:
    """Sample a continuation of each text at each member's step."""
    samples: list[_Sample] = []
    for batch in inputs.text_batches:
        together = max(1, int(settings.text_tokens // held_tokens([text.size for text in batch])))
        for first in range(0, len(members), together):
            some = members[first : first + together]
            texts = [_texts(batch, trainees[i]) for i in some]
            sampled = generate(lambda m, some=some: gang.reader([some[i] for i in m]), texts,
                               settings.sampling, settings.budget, inputs.device)  # fmt: skip
            for i, rows in zip(some, sampled, strict=True):
                training = trainees[i].training
                samples += [
                    _Sample(training, training.step, text, tuple(row)) for text, row in zip(batch, rows, strict=True)
                ]
    return samples


def _texts(batch: Sequence[Text], trainee: Trainee) -> Texts:
    training, seed = trainee.training, trainee.run["generation_seed"]
    longest = max(text.limit for text in batch)
    numbers = [sampling_numbers(seed, text.task, training.step, text.example, longest) for text in batch]
    return Texts(
        prompts=[text.prompt for text in batch],
        uniform=np.stack(numbers),
        limits=[text.limit for text in batch],
    )


class _OpenScores:
    """Samples whose scores are computed beside what follows, and not known yet."""

    def __init__(self, scorer: Scorer | None, inputs: Inputs) -> None:
        self._scorer, self._inputs = scorer, inputs
        self._samples: list[_Sample] = []

    def ask(self, samples: list[_Sample]) -> None:
        """Have samples scored; those asked for before must be settled."""
        assert not self._samples
        if samples:
            assert self._scorer is not None
            end = self._inputs.end
            decode = self._inputs.decode
            self._scorer.ask(
                (decode(s.tokens[:-1] if s.tokens[-1] == end else s.tokens), s.text.references) for s in samples
            )
        self._samples = samples

    def settle(self) -> None:
        """Wait for the scores that are open, and put them where they belong."""
        if self._samples:
            assert self._scorer is not None
            for sample, scores in zip(self._samples, self._scorer.answers().T, strict=True):
                for i, metric in enumerate(("bleu", "rouge_l")):
                    if metric in sample.text.metrics:
                        sample.training.texts[i, sample.step, sample.text.row] = scores[i]
            self._samples = []
