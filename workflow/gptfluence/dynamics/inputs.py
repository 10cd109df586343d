"""What the runs of a gang read: examples in tokens, tests in packs, prompts of texts in batches. Made once for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gptfluence.dynamics.cuts import Budget, cut_texts, text_limit
from gptfluence.dynamics.examples import Encoded, Tokenizer, cut
from gptfluence.dynamics.packing import Pack, Stream, pack_by_length, pack_examples
from gptfluence.dynamics.tokens import tokenised

LOG = logging.getLogger("gptfluence")


@dataclass(frozen=True)
class Text:
    """A test example whose continuation is sampled.

    Attributes:
        row: its number among the run's test examples.
        prompt: token ids.
        limit: most new tokens.
    """

    row: int
    task: str
    example: int
    prompt: tuple[int, ...]
    references: tuple[str, ...]
    metrics: tuple[str, ...]
    limit: int

    @property
    def size(self) -> tuple[int, int]:
        """Tokens of the prompt, and most new ones."""
        return len(self.prompt), self.limit


class Inputs:
    """Everything that the runs of a gang share.

    Attributes:
        train: the examples that runs may draw, by task and number.
        tests: (task, example), in the order of the run's test tasks.
        test_examples: these, in tokens.
        packs: the tests, cut to what is read in one go.
        texts: the tests whose continuations are sampled.
        text_batches: the same, cut to what is sampled together.
        end: id of the end-of-text token.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        tokenizer: Callable[[], Tokenizer],
        context: int,
        budget: Budget,
        device: torch.device,
    ) -> None:
        run = spec["runs"][0]
        form = "plain" if run["scenario"] == "fine_tuning" else "instruction"
        self.device = device
        self.train: dict[tuple[str, int], Encoded] = {}
        self.tests: list[tuple[str, int]] = []
        self.texts: list[Text] = []
        self.test_examples: list[Encoded] = []
        tasks = {task: tokenised(spec["model"], spec["tasks"][task], form, tokenizer) for task in run["train_tasks"]}
        self.end = tasks[run["train_tasks"][0]].end
        drawn_from = {other["pool"] for other in spec["runs"]}
        self._truncated = dict.fromkeys(drawn_from, 0)

        def encoded(row: dict[str, Any]) -> Encoded:
            return cut(row["prompt"], row["target"], self.end, context)

        for task in run["train_tasks"]:
            for row in tasks[task].rows:
                if row["part"] in drawn_from:
                    self.train[task, row["example"]] = example = encoded(row)
                    self._truncated[row["part"]] += example.truncated
        for task in run["test_tasks"]:
            tests = [row for row in tasks[task].rows if row["part"] == "test"]
            metrics = tuple(spec["metrics"][task])
            if "bleu" in metrics or "rouge_l" in metrics:
                longest = max(row["longest_reference"] for row in tests)
                limit = text_limit(longest, spec["generation"]["max_new_tokens"], context)
                self.texts += [
                    Text(
                        row=len(self.test_examples) + i,
                        task=task,
                        example=row["example"],
                        prompt=tuple(row["prompt"][-(context - limit) :]),
                        references=tuple(row["references"]),
                        metrics=metrics,
                        limit=limit,
                    )
                    for i, row in enumerate(tests)
                ]
            self.test_examples += map(encoded, tests)
            self.tests += [(task, row["example"]) for row in tests]
        batches = cut_texts([text.size for text in self.texts], spec["generation"]["batch_tokens"])
        self.text_batches = [[self.texts[i] for i in batch] for batch in batches]
        examples = [*self.train.values(), *self.test_examples]
        truncated = sum(example.truncated for example in examples)
        if truncated:
            LOG.warning(
                "%s: %d of %d examples are longer than the context of %d tokens: truncated",
                run["group"],
                truncated,
                len(examples),
                context,
            )
        self._truncated_tests = sum(example.truncated for example in self.test_examples)
        self.packs = pack_by_length(self.test_examples, budget)
        self._streams: dict[tuple[int, int], Stream] = {}
        self._tokenizer = tokenizer

    def decode(self, tokens: Sequence[int]) -> str:
        """Return sampled tokens as text, without marks and the space that joins it to the prompt."""
        return self._tokenizer().decode(tokens, skip_special_tokens=True).strip()

    def truncated_of(self, pool: str) -> int:
        """Return how many of a pool's examples and of the tests are longer than the context."""
        return self._truncated[pool] + self._truncated_tests

    def test_stream(self, pack: int, runs: int) -> Stream:
        """Return one pack of the tests, as that many runs read it together."""
        if (pack, runs) not in self._streams:
            self._streams[pack, runs] = Stream.of([self.packs[pack]] * runs, self.device)
        return self._streams[pack, runs]

    def train_pack(self, keys: Sequence[tuple[str, int]]) -> Pack:
        """Return training examples, by task and number, as one pack."""
        return pack_examples([self.train[key] for key in keys])
