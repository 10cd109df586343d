"""What the runs of a gang read: examples in tokens, tests in packs, prompts of texts in batches. Made once for all."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gptfluence.dynamics.examples import Encoded, Tokenizer, cut
from gptfluence.dynamics.packing import Pack, Stream, pack_by_length, pack_examples
from gptfluence.dynamics.tokens import tokenised

LOG = logging.getLogger("gptfluence")

# A generated text may be this many tokens longer than the longest reference; more could only lower its scores.
_SPARE_TOKENS = 8


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


class Inputs:
    """Everything that the runs of a gang share.

    Attributes:
        train: the examples that runs may draw, by task and number.
        tests: (task, example), in the order of the run's test tasks.
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
        vocabulary: int,
        device: torch.device,
    ) -> None:
        run = spec["runs"][0]
        form = "plain" if run["scenario"] == "fine_tuning" else "instruction"
        self.device = device
        self.train: dict[tuple[str, int], Encoded] = {}
        self.tests: list[tuple[str, int]] = []
        self.texts: list[Text] = []
        encoded_tests: list[Encoded] = []
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
                longest = max(row["longest_reference"] for row in tests) + _SPARE_TOKENS
                limit = min(spec["generation"]["max_new_tokens"], context // 2, longest)
                self.texts += [
                    Text(
                        row=len(encoded_tests) + i,
                        task=task,
                        example=row["example"],
                        prompt=tuple(row["prompt"][-(context - limit) :]),
                        references=tuple(row["references"]),
                        metrics=metrics,
                        limit=limit,
                    )
                    for i, row in enumerate(tests)
                ]
            encoded_tests += map(encoded, tests)
            self.tests += [(task, row["example"]) for row in tests]
        self.text_batches = batches_of_texts(self.texts, spec["generation"]["batch_tokens"])
        examples = [*self.train.values(), *encoded_tests]
        truncated = sum(example.truncated for example in examples)
        if truncated:
            LOG.warning(
                "%s: %d of %d examples are longer than the context of %d tokens: truncated",
                run["group"],
                truncated,
                len(examples),
                context,
            )
        self._truncated_tests = sum(example.truncated for example in encoded_tests)
        self.packs = pack_by_length(encoded_tests, spec["evaluation_tokens"], vocabulary)
        self._streams: dict[tuple[int, int], Stream] = {}

        def decoded(tokens: tuple[int, ...]) -> str:
            return tokenizer().decode(tokens, skip_special_tokens=True).strip()

        # Between two steps most samples stay what they were.
        self.decode = functools.lru_cache(maxsize=1 << 12)(decoded)

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


def batches_of_texts(texts: Sequence[Text], budget: int) -> list[list[Text]]:
    """Cut the texts of all tasks into batches of like prompts: a decoding step costs little more for many.

    Args:
        budget: most tokens of a batch, prompts filled up to the longest and what may be generated.
    """
    batches: list[list[Text]] = []
    for text in sorted(texts, key=lambda text: (len(text.prompt), text.row)):
        grown = [*batches[-1], text] if batches else [text]
        if batches and batch_tokens(grown) <= budget:
            batches[-1] = grown
        else:
            batches.append([text])
    return batches


def batch_tokens(batch: Sequence[Text]) -> int:
    """Return the most tokens that the texts of a batch may hold, each filled up to the longest."""
    return len(batch) * (max(len(text.prompt) for text in batch) + max(text.limit for text in batch))
