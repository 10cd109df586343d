"""What runs cost: floating-point operations from matrices and lengths, hours from a measured or an assumed speed.

Only what multiplies matrices is counted (two operations for each weight and token), which is nearly everything a GPT
does, and only the memory that must be moved for it: weights, the optimiser's moments, cached keys and values. A run is
counted as if it were computed by itself. Nothing is loaded: weights' shapes are read from the heads of their files,
lengths in characters from the prepared tasks. What is not on disk is replaced by the numbers stated here, and named in
`Costs.assumed`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import statistics
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from gptfluence.design import Design
from gptfluence.dynamics.cuts import Budget, bucket_length, cut_by_length, cut_texts, text_limit
from gptfluence.errors import UserError
from gptfluence.io import read_parquet
from gptfluence.runs import Gang, Group, Run
from gptfluence.sources import rows_of

Pair = tuple[float, float]
"""Lengths of an example's prompt and target."""

# Characters of prompt and target in the plain format. Real tasks: the test examples (CNN/DailyMail: training examples,
# articles cut to 220 words) at 5%, 15%, ..., 95% of the order by length, from 178-400 examples of RTE, SST-2, BoolQ,
# WebNLG 3.0, newstest2016 and CNN/DailyMail.
REAL_LENGTHS: dict[str, tuple[Pair, ...]] = {
    "rte": tuple((n, 5) for n in (154, 201, 218, 236, 263, 288, 322, 388, 575, 728)),
    "sst2": tuple((n, 8) for n in (57, 71, 87, 102, 115, 124, 134, 151, 172, 196)),
    "boolq": tuple((n, 3) for n in (263, 344, 409, 475, 551, 610, 686, 766, 962, 1214)),
    "webnlg": ((42, 50), (58, 55), (96, 58), (98, 90), (131, 112), (141, 134), (160, 145), (167, 169), (223, 168),
               (282, 222)),
    "wmt16_de_en": ((55, 33), (78, 36), (78, 59), (95, 67), (116, 77), (129, 116), (149, 134), (179, 153), (199, 196),
                    (266, 242)),
    "cnn_dailymail": ((1002, 118), (1224, 189), (1338, 130), (1321, 179), (1384, 145), (1429, 125), (1324, 257),
                      (1310, 299), (1397, 251), (1465, 254)),
}  # fmt: skip
WHOLE_ARTICLE = 781 / 220  # mean words of an article of CNN/DailyMail (See et al., 2017), of which 220 stand above
# The made-up world's tasks: means over 128-144 examples a task.
WORLD_LENGTHS: dict[str, tuple[Pair, ...]] = {
    "rte": ((175, 4),),
    "sst2": ((84, 8),),
    "boolq": ((174, 2),),
    "webnlg": ((80, 74),),
    "wmt16_de_en": ((82, 60),),
    "cnn_dailymail": ((212, 78),),
}
OTHER_LENGTHS: tuple[Pair, ...] = ((300, 40),)  # a task of the user's own that is not prepared: a guess
INSTRUCTION_CHARACTERS = 45  # by which an instruction is longer than the plain prompt; mean over the six tasks
LONGEST_REFERENCE = 300  # characters; WebNLG 300, newstest2016 296

# Characters in a token, measured on the same examples: with the tokenizer of SmolLM2 (49,152 tokens, near the 50,304
# of Pythia), and with that of a nano model (2,048 tokens, trained on the world's corpus) on the world's and real tasks.
LARGE_VOCABULARY = {"webnlg": 3.6, "wmt16_de_en": 3.4}
LARGE_VOCABULARY_OTHERS = 4.3
NANO_VOCABULARY_WORLD = 3.4
NANO_VOCABULARY_OTHERS = 2.2

_BYTES = 4  # of a number in fp32


# ------------------------------------------------------------------------------------------------------ operations


@dataclass(frozen=True)
class Shape:
    """What a transformer's operations depend on.

    Attributes:
        layers, width, vocabulary: counts.
        body: weights in the layers' matrices, embeddings and output head left out.
    """

    layers: int
    width: int
    vocabulary: int
    body: int

    @classmethod
    def of(cls, layers: int, width: int, vocabulary: int) -> Shape:
        """Return the usual shape: attention of 4 and a feed-forward part of 8 square matrices a layer."""
        return cls(layers, width, vocabulary, 12 * layers * width**2)

    @property
    def parameters(self) -> int:
        """Weights that every token or logit is multiplied by; of the embeddings read, a few rows are looked up."""
        return self.body + self.vocabulary * self.width


class Work(NamedTuple):
    """What is done in a run, or a part of it.

    Attributes:
        flops: floating-point operations.
        layer_calls: how often one layer is called, however much it reads.
        bytes: moved from and to memory, at the least.
    """

    flops: float
    layer_calls: float
    bytes: float

    def times(self, factor: float) -> Work:
        """Return the work done `factor` times."""
        return Work(self.flops * factor, self.layer_calls * factor, self.bytes * factor)

    def plus(self, other: Work) -> Work:
        """Return both together."""
        return Work(self.flops + other.flops, self.layer_calls + other.layer_calls, self.bytes + other.bytes)


NOTHING = Work(0.0, 0.0, 0.0)


class Reading(NamedTuple):
    """Sequences one behind the other, as `dynamics.packing.Pack` holds them.

    Attributes:
        tokens: that are read.
        looks: pairs of tokens in the attention: the full square of each sequence, filled up to its bucket.
        kept: tokens whose logits are computed.
    """

    tokens: float
    looks: float
    kept: float

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Reading:
        """Read the context of each pair and what continues it, but for its last token; each of that is predicted."""
        lengths = [context + max(continuation - 1, 0) for context, continuation in pairs]
        return cls(sum(lengths), sum(bucket_length(n) ** 2 for n in lengths), sum(map(_kept, pairs)))

    def times(self, factor: float) -> Reading:
        """Return `factor` times as many sequences."""
        return Reading(*(value * factor for value in self))


def forward(shape: Shape, reading: Reading) -> Work:
    """Work of one forward pass."""
    flops = 2 * shape.body * reading.tokens + 2 * shape.vocabulary * shape.width * reading.kept
    return Work(flops + _attention_flops(shape, reading.looks), shape.layers, _BYTES * shape.parameters)


def _attention_flops(shape: Shape, looks: float) -> float:
    """Operations between tokens: the scores and their use."""
    return 4 * shape.layers * shape.width * looks


def update(shape: Shape, examples: Sequence[Pair], batch: int, adapters: bool = False) -> Work:
    """Work of one update: forward, gradients of what flows, gradients of weights (with adapters: nearly none).

    Args:
        examples: lengths in tokens of those that a batch is drawn from; it has their mean.
        batch: examples in it.
    """
    reading = Reading.of(examples).times(batch / len(examples))
    work = forward(shape, reading)
    if adapters:
        # Both sides of a product between tokens flow.
        return work.times(2).plus(Work(_attention_flops(shape, reading.looks), 0, 0))
    # AdamW reads gradient, weight and two moments, and writes the last three.
    return work.times(3).plus(Work(0, 0, 7 * _BYTES * shape.parameters))


def evaluation(shape: Shape, tests: Sequence[Pair], budget: int) -> Work:
    """Work of measuring the loss of all test examples (lengths in tokens) once.

    Args:
        budget: tokens read in one go.
    """
    total = NOTHING
    sizes = [(sum(pair), _kept(pair)) for pair in tests]
    for group in cut_by_length(sizes, Budget.of(budget, shape.vocabulary)):
        total = total.plus(forward(shape, Reading.of([tests[i] for i in group])))
    return total


def sampling(shape: Shape, texts: Sequence[tuple[float, int]], budget: int, reading_budget: int) -> Work:
    """Work of sampling all texts once, none of which ends early: an upper bound.

    Args:
        texts: tokens of the prompt and most new tokens of each.
        budget: tokens of the texts that are sampled together, see `dynamics.cuts.cut_texts`.
        reading_budget: tokens of prompts that are read in one go.
    """
    total = NOTHING
    for batch in ([texts[i] for i in group] for group in cut_texts(texts, budget)):
        total = total.plus(evaluation(shape, [(prompt, 0) for prompt, _ in batch], reading_budget))
        total = total.plus(_decoding(shape, batch))
    return total


def _decoding(shape: Shape, batch: Sequence[tuple[float, int]]) -> Work:
    """Work of sampling the texts of a batch, token by token and with a cache, but for the first token of each."""
    steps = [max(limit - 1, 0) for _, limit in batch]
    # Each token looks at the cache as far as the longest text has filled it, and at itself.
    longest = max(prompt for prompt, _ in batch)
    looks = sum(new * longest + new * (new + 1) / 2 for new in steps)
    calls = max(steps)
    flops = 2 * shape.parameters * sum(steps) + _attention_flops(shape, looks)
    # A key and a value, as if each head had its own.
    cache = 2 * shape.layers * shape.width * looks
    return Work(flops, shape.layers * calls, _BYTES * (shape.parameters * calls + cache))


def _kept(pair: Pair) -> float:
    """Tokens of a pair whose logits are computed: one that nothing continues still gives the next token's."""
    return max(pair[1], 1)


# ---------------------------------------------------------------------------------------------------- models on disk

_EMBEDDING = re.compile(r"embed|wte|wpe|lm_head|token_embd|position_embd|^output\.weight$")
_INPUT_EMBEDDING = re.compile(r"embed_in|embed_tokens|wte|token_embd|word_embeddings\.weight")
_LAYER = re.compile(r"\.(\d+)\.")


def folder_shape(folder: Path) -> Shape | None:
    """Return the shape of the model in a folder of safetensors, from the files' heads; None where they do not tell."""
    matrices: dict[str, list[int]] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with open(path, "rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                if size > 100_000_000:  # the format's own limit
                    return None
                header = json.loads(file.read(size))
            matrices |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        return _shape_of(matrices)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError):
        return None


def gguf_shape(path: Path) -> Shape | None:
    """Return the shape of the model in a GGUF file, from its head; None where it does not tell."""
    try:
        with open(path, "rb") as file:
            magic, _, tensors, keys = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF":
                return None
            for _ in range(keys):
                _gguf_text(file)
                _gguf_skip(file, *struct.unpack("<I", file.read(4)))
            matrices = {}
            for _ in range(tensors):
                name = _gguf_text(file)
                (axes,) = struct.unpack("<I", file.read(4))
                # The fastest axis stands first: the other way round than in safetensors.
                matrices[name] = list(struct.unpack(f"<{axes}Q", file.read(8 * axes)))[::-1]
                file.seek(12, 1)
        return _shape_of(matrices)
    except (OSError, struct.error, ValueError, KeyError, OverflowError, MemoryError):
        return None


_GGUF_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


def _gguf_text(file: BinaryIO) -> str:
    (size,) = struct.unpack("<Q", file.read(8))
    return file.read(size).decode("utf-8", "replace")


def _gguf_skip(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_STRING:
        file.seek(*struct.unpack("<Q", file.read(8)), 1)
    elif kind == _GGUF_ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _GGUF_BYTES:
            file.seek(_GGUF_BYTES[inner] * count, 1)
        else:
            for _ in range(count):
                _gguf_skip(file, inner)
    else:
        file.seek(_GGUF_BYTES[kind], 1)


def _shape_of(matrices: dict[str, list[int]]) -> Shape | None:
    """Return the shape that the matrices' names and sizes tell."""
    layers = {match[1] for name in matrices if (match := _LAYER.search(name))}
    tables = [size for name, size in matrices.items() if _INPUT_EMBEDDING.search(name) and len(size) == 2]
    if not layers or not tables:
        return None
    vocabulary, width = tables[0]
    body = sum(math.prod(size) for n, size in matrices.items() if len(size) == 2 and not _EMBEDDING.search(n))
    return Shape(len(layers), width, vocabulary, body)


def model_shape(design: Design, model: str, folder: Path) -> Shape | None:
    """Return the shape of a model of the plan: from its row or its files; None where neither tells.

    Args:
        folder: where the plan's paths start.
    """
    row = design.params.dynamics.models[model]
    if row.source == "world":
        return Shape.of(row.layers, row.width, design.params.dynamics.pretraining.vocabulary)
    if row.source == "folder":
        return folder_shape(folder / row.path)
    if row.source == "gguf":
        start = folder
        if row.package:
            found = importlib.util.find_spec(row.package)
            if found is None or not found.submodule_search_locations:
                return None
            start = Path(found.submodule_search_locations[0])
        return gguf_shape(start / row.path)
    return row.shape and Shape.of(row.shape.layers, row.shape.width, row.shape.vocabulary)


# ----------------------------------------------------------------------------------------------------------- lengths


@dataclass(frozen=True)
class Lengths:
    """Lengths of a task's examples in one format, in characters."""

    train: tuple[Pair, ...]
    tests: tuple[Pair, ...]
    longest_reference: float


def prepared_lengths(path: Path, form: str) -> Lengths | None:
    """Return the lengths of a prepared task, or None where it does not stand (whole)."""
    if not path.is_file():
        return None
    try:
        table = read_parquet(path, columns=["part", "format", "prompt", "target", "references"])
        table = table.filter(pc.equal(table["format"], form))
        prompts, targets = (pc.utf8_length(table[name]).to_pylist() for name in ("prompt", "target"))
        references = pc.max(pc.utf8_length(pc.list_flatten(table["references"]))).as_py()
        parts = table["part"].to_pylist()
    except (UserError, pa.ArrowException, KeyError):
        return None
    pairs = list(zip(parts, prompts, targets, strict=True))
    return Lengths(
        train=tuple((prompt, target) for part, prompt, target in pairs if part != "test"),
        tests=tuple((prompt, target) for part, prompt, target in pairs if part == "test"),
        longest_reference=references or 0,
    )


def assumed_lengths(source: str, task: str, form: str, tests: int) -> Lengths:
    """Return the lengths stated in this module for a task that is not prepared yet.

    Args:
        source: kind of the task's source: world, local, hub or own.
        tests: how many test examples it has.
    """
    stated = WORLD_LENGTHS if source == "world" else REAL_LENGTHS
    pairs = stated.get(task, OTHER_LENGTHS) if source != "own" else OTHER_LENGTHS
    if task == "cnn_dailymail" and source == "hub":
        pairs = tuple((prompt * WHOLE_ARTICLE, target) for prompt, target in pairs)
    if form == "instruction" and source != "own":
        pairs = tuple((prompt + INSTRUCTION_CHARACTERS, target) for prompt, target in pairs)
    # Each stated example stands for as many of the real ones.
    spread = tuple(pairs[i * len(pairs) // tests] for i in range(tests))
    return Lengths(pairs, spread, LONGEST_REFERENCE)


def characters_per_token(vocabulary: int, source: str, task: str) -> float:
    """Return how many characters of a task one token holds, by the size of the model's vocabulary."""
    if vocabulary < 10_000:
        return NANO_VOCABULARY_WORLD if source == "world" else NANO_VOCABULARY_OTHERS
    return LARGE_VOCABULARY.get(task, LARGE_VOCABULARY_OTHERS)


# --------------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class Device:
    """How fast a device is assumed to be.

    Attributes:
        tflops: its peak, in 10^12 operations a second.
        utilisation: the share of the peak that is reached.
        gb_per_s: its memory's bandwidth, in 10^9 bytes a second.
        layer_ms: what each call of a layer costs besides, however little it multiplies; decides for small models.
    """

    tflops: float
    utilisation: float
    gb_per_s: float
    layer_ms: float

    def seconds(self, work: Work) -> float:
        """Return the seconds that the work takes: memory is moved while matrices are multiplied."""
        multiplied = work.flops / (self.tflops * 1e12 * self.utilisation)
        moved = work.bytes / (self.gb_per_s * 1e9)
        return max(multiplied, moved) + work.layer_calls * self.layer_ms / 1000


@dataclass(frozen=True)
class Estimate:
    """What one run of a group costs.

    Attributes:
        flops: None where the model's shape is not known.
        seconds: on one device; None where neither measured nor modelled.
        basis: measured (from finished jobs of the same scenario and model), modelled, or unknown.
        device: gpu or cpu, as the model's row asks for.
    """

    flops: float | None
    seconds: float | None
    basis: str
    device: str


_COPY_SECONDS = 0.1  # of a released run, which is not trained


class Costs:
    """Estimates for the groups of a plan; each file is read at most once.

    Attributes:
        assumed: the tasks whose lengths are this module's, as they are not prepared yet.
        devices: the assumed speed of each kind of device.
    """

    def __init__(self, design: Design, folder: Path = Path(".")) -> None:
        self.assumed: set[str] = set()
        self.devices = _devices(design)
        self._design, self._folder = design, folder
        own = {} if design.released else design.models
        self._shapes = {model: model_shape(design, model, folder) for model in own}
        self._lengths: dict[tuple[str, str], Lengths] = {}
        self._work = {} if design.released else {name: self._work_of(group) for name, group in design.groups.items()}
        self._measured: dict[str, list[float]] = {}
        for gang in design.gangs.values():
            seconds = measured_seconds(gang, folder)
            if seconds is not None:
                length = statistics.mean(relative_length(design, run) for run in gang.runs)
                self._measured.setdefault(gang.runs[0].group, []).append(seconds / length)

    def estimate(self, group: str) -> Estimate:
        """Return what a group's first run costs: as measured, where a job of its scenario and model has ended.

        For other runs of the group see `relative_length`.
        """
        if self._design.released:
            return Estimate(0.0, _COPY_SECONDS, "modelled", "cpu")
        chosen, work = self._design.groups[group], self._work[group]
        device = "gpu" if self._design.params.dynamics.models[chosen.model].gpu else "cpu"
        flops = work and work.flops
        if group in self._measured:
            return Estimate(flops, statistics.median(self._measured[group]), "measured", device)
        modelled = work and self.devices[device].seconds(work)
        alike = []
        for other, measured in self._measured.items():
            another = self._design.groups[other]
            if (another.scenario, another.model) == (chosen.scenario, chosen.model):
                # The same model, so known for both or for neither; the other task's texts are longer or shorter.
                other_work = self._work[other]
                ratio = modelled / self.devices[device].seconds(other_work) if modelled and other_work else 1.0
                alike += [seconds * ratio for seconds in measured]
        if alike:
            return Estimate(flops, statistics.median(alike), "measured", device)
        return Estimate(flops, modelled, "unknown" if modelled is None else "modelled", device)

    def _work_of(self, group: Group) -> Work | None:
        """Return the work of one run of a group; None where the model's shape is not known."""
        shape, run = self._shapes[group.model], group.runs[0]
        if shape is None:
            return None
        dynamics = self._design.params.dynamics
        context = dynamics.models[group.model].max_length
        train: list[Pair] = []
        tests: list[Pair] = []
        texts: list[tuple[float, int]] = []
        for task in group.train_tasks:
            lengths = self._task_lengths(task, run.format)
            per_token = characters_per_token(shape.vocabulary, self._design.tasks[task]["source"]["kind"], task)
            train += [_tokens(pair, per_token, context) for pair in lengths.train]
            if task not in group.test_tasks:
                continue
            tested = [_tokens(pair, per_token, context) for pair in lengths.tests]
            tests += tested
            if set(self._design.params.metrics(task)) & {"bleu", "rouge_l"}:
                limit = text_limit(lengths.longest_reference / per_token, dynamics.generation.max_new_tokens, context)
                texts += [(min(prompt, context - limit), limit) for prompt, _ in tested]
        adapters = dynamics.models[group.model].lora is not None
        losses = evaluation(shape, tests, dynamics.evaluation_tokens)
        budgets = dynamics.generation.batch_tokens, dynamics.evaluation_tokens
        measured = losses.plus(sampling(shape, texts, *budgets))
        return update(shape, train, run.batch, adapters).times(run.steps).plus(measured.times(run.steps + 1))

    def _task_lengths(self, task: str, form: str) -> Lengths:
        if (task, form) not in self._lengths:
            found = prepared_lengths(self._folder / self._design.task_file(task), form)
            if found is None:
                self.assumed.add(task)
                spec = self._design.tasks[task]
                like = spec.get("mislabelled", {}).get("of", task)
                found = assumed_lengths(spec["source"]["kind"], like, form, rows_of(spec, "test"))
            self._lengths[task, form] = found
        return self._lengths[task, form]


def relative_length(design: Design, run: Run) -> float:
    """Return how much a run reads, in units of its group's first run, which the group's estimate is of.

    A measurement reads each test once. An update reads its batch, and goes back, which costs twice as much.
    """
    tests = sum(design.group_sizes(run.group)["test_sizes"].values())
    own, first = (
        3 * one.steps * one.batch + tests * (2 if one.ends_alone else one.steps + 1)
        for one in (run, design.groups[run.group].runs[0])
    )
    return own / first


def measured_seconds(gang: Gang, folder: Path) -> float | None:
    """Return the seconds of one run of a finished gang, from Snakemake's benchmark of its job; None without one."""
    path = folder / "results/benchmarks/train_runs" / f"{Path(gang.manifest).stem}.tsv"
    try:
        names, values = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[:2])
        seconds = float(dict(zip(names, values, strict=True))["s"])
        ended = path.stat().st_mtime
    except (OSError, ValueError, KeyError):
        return None
    if not 0 < seconds < math.inf:
        return None
    # A job that went on where another had failed trained only some of the runs: those whose shards are of its time.
    trained = 0
    for run in gang.runs:
        try:
            trained += ended - seconds - 5 <= (folder / run.shard).stat().st_mtime <= ended + 5
        except OSError:
            continue
    return seconds / (trained or len(gang.runs))


def _tokens(pair: Pair, per_token: float, context: int) -> Pair:
    """Turn characters into tokens; the end of the text belongs to the target."""
    target = min(pair[1] / per_token + 1, context - 1)
    return min(pair[0] / per_token, context - target), target


def _devices(design: Design) -> dict[str, Device]:
    cost = design.params.dynamics.cost
    return {kind: Device(**value.model_dump()) for kind, value in (("gpu", cost.gpu), ("cpu", cost.cpu))}
