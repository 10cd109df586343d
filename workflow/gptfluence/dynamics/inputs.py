"""What the runs of a gang read: examples in tokens, tests in packs, prompts of texts in batches. Made once for all."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import PreTrainedTokenizerBase

from gptfluence.dynamics.examples import Encoded, encode, encode_prompt
from gptfluence.dynamics.packing import Stream, pack_by_length, pack_examples
from gptfluence.io import read_parquet

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
        truncated: how many examples are longer than the context.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        vocabulary: int,
        device: torch.device,
    ) -> None:
        run = spec["runs"][0]
        form = "plain" if run["scenario"] == "fine_tuning" else "instruction"
        self.device = device
        self.end: int = tokenizer.eos_token_id
        self.train: dict[tuple[str, int], Encoded] = {}
        self.tests: list[tuple[str, int]] = []
        self.texts: list[Text] = []
        encoded_tests: list[Encoded] = []
        rows = {task: _read_task(spec["tasks"][task], form).to_pylist() for task in run["train_tasks"]}
        drawn_from = {other["pool"] for other in spec["runs"]}
        for task in run["train_tasks"]:
            for row in rows[task]:
                if row["part"] in drawn_from:
                    self.train[task, row["example"]] = encode(tokenizer, row["prompt"], row["target"], context)
        for task in run["test_tasks"]:
            tests = [row for row in rows[task] if row["part"] == "test"]
            encoded = [encode(tokenizer, row["prompt"], row["target"], context) for row in tests]
            metrics = tuple(spec["metrics"][task])
            if "bleu" in metrics or "rouge_l" in metrics:
                limit = _limit(tokenizer, tests, min(spec["generation"]["max_new_tokens"], context // 2))
                self.texts += [
                    Text(
                        row=len(encoded_tests) + i,
                        task=task,
                        example=row["example"],
                        prompt=tuple(encode_prompt(tokenizer, row["prompt"])[-(context - limit) :]),
                        references=tuple(row["references"]),
                        metrics=metrics,
                        limit=limit,
                    )
                    for i, row in enumerate(tests)
                ]
            encoded_tests += encoded
            self.tests += [(task, row["example"]) for row in tests]
        self.text_batches = batches_of_texts(self.texts, spec["generation"]["batch_tokens"])
        examples = [*self.train.values(), *encoded_tests]
        self.truncated = sum(example.truncated for example in examples)
        if self.truncated:
            LOG.warning(
                "%s: %d of %d examples are longer than the context of %d tokens: truncated",
                run["group"],
                self.truncated,
                len(examples),
                context,
            )
        self.packs = pack_by_length(encoded_tests, spec["evaluation_tokens"], vocabulary)
        self._streams: dict[tuple[int, int], Stream] = {}

        def decoded(tokens: tuple[int, ...]) -> str:
            return tokenizer.decode(tokens, skip_special_tokens=True).strip()

        # Between two steps most samples stay what they were.
        self.decode = functools.lru_cache(maxsize=1 << 16)(decoded)

    def test_stream(self, pack: int, runs: int) -> Stream:
        """Return one pack of the tests, as that many runs read it together."""
        if (pack, runs) not in self._streams:
            self._streams[pack, runs] = Stream.of([self.packs[pack]] * runs, self.device)
        return self._streams[pack, runs]

    def train_pack(self, keys: Sequence[tuple[str, int]]) -> Any:
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


def _limit(tokenizer: PreTrainedTokenizerBase, tests: list[dict[str, Any]], most: int) -> int:
    references = [reference for row in tests for reference in row["references"]]
    lengths = [len(ids) for ids in tokenizer(references, add_special_tokens=False)["input_ids"]]
    return min(most, max(lengths) + _SPARE_TOKENS)


def _read_task(path: str, form: str) -> pa.Table:
    table = read_parquet(path, columns=["part", "example", "format", "prompt", "target", "references"])
    return table.filter(pc.equal(table["format"], form))
