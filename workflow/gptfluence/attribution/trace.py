"""Fact tracing: which passages of a corpus taught a model what a query asks for (Chang et al., arXiv 2410.17413).

A passage is all target: its loss is the mean over all of its tokens after the first. A query's loss is that of its
target behind its prompt; the end of the text is not asked for, as in a passage the sentence goes on. Gradients of the
passages go to a store on disk, so that memory grows with the corpus's text alone, and a killed command goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptfluence.attribution.search import search
from gptfluence.attribution.texts import Bm25
from gptfluence.attribution.vectors import unit_length
from gptfluence.errors import UserError, did_you_mean
from gptfluence.io import atomic_path, digest, write_json
from gptfluence.notes import Notes
from gptfluence.scores.retrieval import ranked_relevance, recalls, reciprocal_ranks
from gptfluence.tasks.local import read_lines

if TYPE_CHECKING:
    import torch

    from gptfluence.design import Design
    from gptfluence.dynamics.cuts import Budget
    from gptfluence.dynamics.examples import Encoded

LOG = logging.getLogger("gptfluence")

METHODS = ("trackstar", "grad_dot", "bm25")

_RANKED = 1000  # passages a query that are ranked: facts found later count as found right after them
_MOMENTS_OF = 512  # passages, evenly spaced, whose gradients' mean squares stand for AdamW's second moments
_CHUNK = 256  # passages that are stored together: what a killed command loses at most


@dataclass(frozen=True)
class Passage:
    """A text of the corpus.

    Attributes:
        facts: names of the facts that it states.
    """

    id: str | int
    text: str
    facts: frozenset[str]


@dataclass(frozen=True)
class Query:
    """What a model is asked.

    Attributes:
        facts: names of the facts that it asks for.
    """

    id: str | int
    prompt: str
    target: str
    facts: frozenset[str]


def trace(
    model: dict[str, Any],
    passages: Path,
    queries: Path,
    output: Path,
    method: str,
    k: int,
    tail_patch: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the k best passages of each query as JSON Lines, and a summary beside them.

    The output's lines have ``id``, ``prompt``, ``target`` and ``proponents``: ``id``, ``score`` and ``text`` of the
    passages, the best first. Scores are in the method's own units. The folder ``{output}.store`` keeps gradients:
    the same command goes on from what is there.

    The summary, ``{output}.summary.json``, has the mean reciprocal rank and Recall@10 (the share of a query's passages
    among the first 10), where facts are given on both sides, over the queries of which some passage states a fact.
    It has the tail-patch score, where it is asked for: by how much one step of AdamW on a proponent alone, with a fresh
    state, raises the mean log-probability of the target's tokens, in nats; mean over queries and proponents.

    Args:
        model: a row of ``dynamics.models``, as `dynamics.models.load_model` takes it; not loaded for bm25 alone. All of
            it is looked at and stepped: adapters that it is trained with are left out.
        passages: JSON Lines with ``id``, ``text`` and, if known, ``facts`` (texts) which the passage states.
        queries: JSON Lines with ``id``, ``prompt``, ``target`` and, if known, ``facts`` which are asked for.
        method: one of `METHODS`. trackstar: see `attribution.trackstar`, with the mean square of passages' gradients
            as second moments. grad_dot: exact inner products of gradients. bm25: words in common with the query.
        k: proponents a query.
        tail_patch: how many proponents of each query a step is made on; 0: none.
        settings: ``parameters``, ``projection``, ``damping`` and ``seed`` as in ``attribution``; ``evaluation_tokens``
            and ``optimizer`` as in ``dynamics``; ``learning_rate`` of the tail-patch step.

    Returns:
        The summary.

    Raises:
        UserError: a file is not readable, a line of it is wrong, there is no such method or model, or the store is of
            another model, corpus or projection.
    """
    if method not in METHODS:
        raise UserError(f"no method '{method}'{did_you_mean(method, METHODS)}; there are {', '.join(METHODS)}")
    if k < 1 or not 0 <= tail_patch <= k:
        raise UserError(f"k = {k} and tail-patch = {tail_patch}: k must be at least 1, tail-patch from 0 to k")
    if not 0 < settings["learning_rate"] < math.inf:
        raise UserError(f"learning rate {settings['learning_rate']}: it must be above 0")
    corpus, asked = read_passages(passages), read_queries(queries)
    deep = min(len(corpus), max(k, _RANKED))
    loaded = _Loaded.of(model, corpus, asked, settings) if method != "bm25" or tail_patch else None
    store = output.with_name(output.name + ".store")
    if method == "bm25":
        ids, scores = _bm25(corpus, asked, deep)
    else:
        assert loaded is not None
        rank = _trackstar if method == "trackstar" else _grad_dot
        ids, scores = rank(loaded, store, settings, deep)
    summary: dict[str, Any] = {"method": method, "passages": len(corpus), "queries": len(asked)}
    summary |= _found(corpus, asked, ids, scores)
    if tail_patch:
        assert loaded is not None
        gains = tail_patch_gains(loaded, ids[:, :tail_patch], settings)
        summary |= {"tail_patch": float(gains.mean()), "tail_patch_proponents": gains.shape[1]}
    _write(output, corpus, asked, ids[:, :k], scores[:, :k])
    write_json(output.with_name(output.name + ".summary.json"), summary)
    return summary


def _write(
    output: Path, corpus: Sequence[Passage], asked: Sequence[Query], ids: np.ndarray, scores: np.ndarray
) -> None:
    with atomic_path(output) as part, open(part, "w", encoding="utf-8") as file:
        for query, own, values in zip(asked, ids.tolist(), scores.tolist(), strict=True):
            proponents = [
                {"id": corpus[i].id, "score": score, "text": corpus[i].text}
                for i, score in zip(own, values, strict=True)
            ]
            row = {"id": query.id, "prompt": query.prompt, "target": query.target, "proponents": proponents}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _found(corpus: Sequence[Passage], asked: Sequence[Query], ids: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Say how well passages that state what is asked were found; nothing where no facts are given on one side."""
    if not (any(passage.facts for passage in corpus) and any(query.facts for query in asked)):
        return {}
    stating: dict[str, set[int]] = {}
    for i, passage in enumerate(corpus):
        for fact in passage.facts:
            stating.setdefault(fact, set()).add(i)
    wanted = [set().union(*(stating.get(fact, ()) for fact in query.facts)) for query in asked]
    relevant = np.array([[i in own for i in ranked] for ranked, own in zip(ids.tolist(), wanted, strict=True)]).T
    missed = np.array([len(own) for own in wanted]) - relevant.sum(0)
    # Those that are not among the ranked stand behind them.
    behind = np.arange(missed.max(initial=0))[:, None] < missed
    ranked = ranked_relevance(np.vstack([scores.T, np.full(behind.shape, -np.inf)]), np.vstack([relevant, behind]))
    traced = ranked.shape[1]
    means = {"mrr": float(reciprocal_ranks(ranked).mean()), "recall_at_10": float(recalls(ranked, 10).mean())}
    return {"queries_with_known_passages": traced, **(means if traced else {})}


# --------------------------------------------------------------------------------------------------------- reading


def read_passages(path: Path) -> list[Passage]:
    """Read a corpus; see `trace`.

    Raises:
        UserError: names the file and the line that is wrong.
    """
    return [
        Passage(_id(where, row), _text(where, row, "text"), _facts(where, row)) for where, row in read_lines(str(path))
    ]


def read_queries(path: Path) -> list[Query]:
    """Read queries; see `trace`.

    Raises:
        UserError: names the file and the line that is wrong.
    """
    return [
        Query(_id(where, row), _text(where, row, "prompt"), _text(where, row, "target"), _facts(where, row))
        for where, row in read_lines(str(path))
    ]


def _id(where: str, row: dict[str, Any]) -> str | int:
    value = row.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: 'id' must be a text or a whole number, {_given(row, 'id')}")
    return value


def _text(where: str, row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: '{key}' must be a text that is not empty, {_given(row, key)}")
    return value


def _facts(where: str, row: dict[str, Any]) -> frozenset[str]:
    value = row.get("facts", [])
    if not isinstance(value, list) or not all(isinstance(fact, str) for fact in value):
        raise UserError(f"{where}: 'facts' must be a list of texts, {_given(row, 'facts')}")
    return frozenset(value)


def _given(row: dict[str, Any], key: str) -> str:
    return f"not {json.dumps(row[key], ensure_ascii=False)[:60]}" if key in row else "but there is none"


# ------------------------------------------------------------------------------------------------ the model's part


@dataclass(frozen=True)
class _Loaded:
    """A model, and the files in its tokens.

    Attributes:
        budget: of what is read in one go.
        identity: digests of the weights and of the passages in tokens.
    """

    model: torch.nn.Module
    passages: list[Encoded]
    queries: list[Encoded]
    budget: Budget
    identity: dict[str, str]

    @classmethod
    def of(
        cls, spec: dict[str, Any], corpus: Sequence[Passage], asked: Sequence[Query], settings: Mapping[str, Any]
    ) -> _Loaded:
        from gptfluence.dynamics.cuts import Budget
        from gptfluence.dynamics.models import context_length, load_model, load_tokenizer, pick_device

        model, tokenizer = load_model(spec, pick_device()), load_tokenizer(spec)
        context = context_length(spec, model)
        passages = [_encode_passage(tokenizer, passage, context) for passage in corpus]
        queries = [_encode_query(tokenizer, query, context) for query in asked]
        for what, examples in (("passages", passages), ("queries", queries)):
            if cut := sum(example.truncated for example in examples):
                LOG.warning("%d of %d %s are longer than the context of %d tokens: truncated",
                            cut, len(examples), what, context)  # fmt: skip
        budget = Budget.of(settings["evaluation_tokens"], model.config.get_text_config().vocab_size)
        identity = {"model": _weights_digest(model), "passages": _tokens_digest(passages)}
        return cls(model, passages, queries, budget, identity)


def _encode_passage(tokenizer: Any, passage: Passage, context: int) -> Encoded:
    """Return a passage as a target behind its first token; what does not fit is cut at the end."""
    from gptfluence.dynamics.examples import Encoded, encode_prompt

    tokens = encode_prompt(tokenizer, passage.text)
    if len(tokens) < 2:
        raise UserError(
            f"passage {json.dumps(passage.id)}: its text is one token long, so that nothing is predicted: leave it out"
        )
    return Encoded(tuple(tokens[:context]), min(len(tokens), context) - 1, len(tokens) > context)


def _encode_query(tokenizer: Any, query: Query, context: int) -> Encoded:
    """Return a query, one space before its target; what does not fit is cut at the prompt's head, then at the end."""
    from gptfluence.dynamics.examples import Encoded, encode_prompt, encode_target

    prompt, target = encode_prompt(tokenizer, query.prompt.rstrip()), encode_target(tokenizer, query.target.strip())
    kept = target[: context - 1]
    tokens = (*prompt[-(context - len(kept)) :], *kept)
    return Encoded(tokens, len(kept), len(tokens) < len(prompt) + len(target))


def _weights_digest(model: torch.nn.Module) -> str:
    import hashlib

    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).numpy())
    return state.hexdigest()[:12]


# --------------------------------------------------------------------------------------------------------- ranking


Ranked = tuple[np.ndarray, np.ndarray]
"""Of each query the numbers of the best passages and their scores, [queries, ranked], as `search` returns them."""


def _bm25(corpus: Sequence[Passage], asked: Sequence[Query], deep: int) -> Ranked:
    """Rank by the words that a passage has in common with prompt and target; one query at a time."""
    index = Bm25([passage.text for passage in corpus])
    ids, values = np.empty((len(asked), deep), np.int64), np.empty((len(asked), deep), np.float32)
    for row, query in enumerate(asked):
        scores = index.scores(f"{query.prompt} {query.target}")
        ids[row] = np.argsort(-scores, kind="stable")[:deep]
        values[row] = scores[ids[row]]
    return ids, values


def _trackstar(loaded: _Loaded, store: Path, settings: Mapping[str, Any], deep: int) -> Ranked:
    """Rank by inner products of TrackStar's encodings.

    Two stores: the encodings, which hold for any queries, and the same whitened by a mix of the passages' and the
    queries' second moments, of unit length, in which the search takes place.
    """
    from gptfluence.attribution import trackstar
    from gptfluence.attribution.hooks import ExampleGradients

    gradients = ExampleGradients(loaded.model, settings["parameters"])
    sample = loaded.passages[:: -(-len(loaded.passages) // _MOMENTS_OF)]
    moments = trackstar.mean_squares(gradients, sample, loaded.budget)
    encoder = trackstar.Encoder(gradients, settings, moments)

    def encode(some: Sequence[Encoded]) -> np.ndarray:
        return encoder.encode_all(some, loaded.budget)

    header = loaded.identity | {"method": "trackstar"}
    header |= {key: settings[key] for key in ("parameters", "projection", "seed")}
    size = len(loaded.passages), encoder.width
    encodings = _filled(store / "encodings", header, size, lambda i, j: encode(loaded.passages[i:j]))
    queries = encode(loaded.queries)

    of_passages = [np.zeros((n, n)) for n in np.bincount(encoder.groups)]
    for start in range(0, len(encodings), _CHUNK):
        chunk = encodings[start : start + _CHUNK]
        for total, part in zip(of_passages, trackstar.second_moments(chunk, encoder.groups), strict=True):
            total += part * (len(chunk) / len(encodings))
    mixed = trackstar.mixed(of_passages, trackstar.second_moments(queries, encoder.groups))
    whitening = trackstar.whiten(mixed, encoder.groups, settings["damping"])

    def finish(some: np.ndarray) -> np.ndarray:
        return unit_length(whitening.apply(some))

    header |= {"damping": settings["damping"], "queries": _tokens_digest(loaded.queries)}
    folder = store / f"whitened.{digest(header)}"
    whitened = _filled(folder, header, size, lambda i, j: finish(encodings[i:j]))
    return search(whitened, finish(queries), deep, index=folder / "graph")


def _grad_dot(loaded: _Loaded, store: Path, settings: Mapping[str, Any], deep: int) -> Ranked:
    """Rank by exact inner products of gradients; the products themselves are stored, [passages, queries]."""
    from gptfluence.attribution.hooks import ExampleGradients, gradient_products

    gradients = ExampleGradients(loaded.model, settings["parameters"])
    header = loaded.identity | {"method": "grad_dot", "parameters": settings["parameters"]}
    header |= {"queries": _tokens_digest(loaded.queries)}

    def products(start: int, end: int) -> np.ndarray:
        return gradient_products(gradients, loaded.passages[start:end], loaded.queries, loaded.budget)

    size = len(loaded.passages), len(loaded.queries)
    stored = _filled(store / "products", header, size, products)
    return search(stored, np.eye(len(loaded.queries), dtype=np.float32), deep, exact=True)


def _filled(
    folder: Path, header: dict[str, Any], size: tuple[int, int], rows: Callable[[int, int], np.ndarray]
) -> np.ndarray:
    """Return what a store holds, memory-mapped, once all of its rows are there; see `GradientStore`.

    Args:
        size: rows and columns.
        rows: returns those from one number up to another.
    """
    from gptfluence.attribution.store import GradientStore

    store = GradientStore.open_or_resume(folder, header, *size)
    first = store.todo()
    if first:
        LOG.info("%d of %d passages are in %s already", first, size[0], folder)
    notes = Notes()
    for start in range(first, size[0], _CHUNK):
        end = min(start + _CHUNK, size[0])
        try:
            store.append(rows(start, end))
        except UserError as error:
            raise UserError(f"passages {start} to {end - 1} (numbered from 0): {error}") from None
        if notes.due():
            LOG.info("%d of %d passages, %.0f s left", end, size[0], notes.left(end - first, size[0] - first))
    return store.array


def _tokens_digest(examples: Sequence[Encoded]) -> str:
    return digest([(example.tokens, example.target) for example in examples])


# ------------------------------------------------------------------------------------------------------ tail-patch


def tail_patch_gains(loaded: _Loaded, ids: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Return by how much a step on each passage raises the log-probability of the query's target.

    The step is AdamW's with a fresh state, on the passage alone; then the weights are what they were.

    Args:
        ids: [queries, proponents]; numbers of passages.

    Returns:
        [queries, proponents], float64; nats a token of the target.
    """
    from gptfluence.attribution.tail_patch import Steps
    from gptfluence.dynamics.packing import measure, pack_by_length
    from gptfluence.dynamics.trainer import make_optimizer

    def losses(queries: Sequence[int]) -> np.ndarray:
        packs = pack_by_length([loaded.queries[i] for i in queries], loaded.budget)
        return measure(loaded.model, packs).astype(float)

    before = losses(range(len(loaded.queries)))
    gains = np.empty(ids.shape)
    optimizer, _ = make_optimizer(loaded.model, settings["learning_rate"], 1, settings["optimizer"])
    steps = Steps(loaded.model, optimizer, settings["learning_rate"])
    passages = np.unique(ids)
    notes = Notes()
    for done, passage in enumerate(passages.tolist(), 1):
        rows, columns = np.nonzero(ids == passage)
        with steps.on(loaded.passages[passage]):
            gains[rows, columns] = before[rows] - losses(rows.tolist())
        if notes.due():
            LOG.info("tail-patch: %d of %d steps, %.0f s left", done, len(passages), notes.left(done, len(passages)))
    return gains


# ---------------------------------------------------------------------------------------------------- command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``gptfluence trace`` takes."""
    parser.add_argument(
        "params", type=Path, nargs="?", default=Path("params.yaml"), help="settings and models (default: params.yaml)"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="a model of dynamics.models")
    parser.add_argument("--passages", type=Path, required=True, metavar="FILE", help='JSON Lines: {"id", "text"}')
    parser.add_argument(
        "--queries", type=Path, required=True, metavar="FILE", help='JSON Lines: {"id", "prompt", "target"}'
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON Lines to write")
    parser.add_argument(
        "--method", choices=METHODS, default="trackstar", help="how passages are ranked (default: trackstar)"
    )
    parser.add_argument("--k", type=int, default=10, metavar="N", help="proponents a query (default: 10)")
    parser.add_argument(
        "--tail-patch", type=int, default=0, metavar="N",
        help="make a training step on each of the first N proponents of a query, and measure it",
    )  # fmt: skip
    parser.add_argument(
        "--learning-rate", type=float, default=1e-4, metavar="RATE", help="of that step (default: 1e-4)"
    )


def run(options: argparse.Namespace) -> None:
    """Do what ``gptfluence trace`` is asked for, and print the summary."""
    from gptfluence.design import make_design
    from gptfluence.params import read_params
    from gptfluence.sources import model_spec

    params = read_params(options.params)
    models = params.dynamics.models
    if options.model not in models:
        raise UserError(
            f"--model {options.model}: not in dynamics.models of {options.params}"
            f"{did_you_mean(options.model, models)}; there are {', '.join(models)}"
        )
    model = model_spec(params, models[options.model])
    if model["source"] == "world":
        model |= {"folder": _pretrained(make_design(params), options.model)}
    settings = params.attribution.model_dump(include={"parameters", "projection", "damping", "seed"})
    settings |= {"evaluation_tokens": params.dynamics.evaluation_tokens, "learning_rate": options.learning_rate}
    settings |= {"optimizer": params.dynamics.optimizer.model_dump()}
    summary = trace(
        model, options.passages, options.queries, options.output, options.method, options.k, options.tail_patch,
        settings,
    )  # fmt: skip
    for key, value in summary.items():
        print(f"{key}: {value if not isinstance(value, float) else f'{value:.4f}'}")
    print(f"proponents: {options.output}")


def _pretrained(design: Design, model: str) -> str:
    """Return the folder of one of the world's own models.

    Raises:
        UserError: the pipeline does not make it, or has not yet.
    """
    if model not in design.models:
        raise UserError(
            f"--model {model}: scale {design.params.scale} has no runs of it, so that it is not pre-trained; "
            f"this scale has {', '.join(design.models)}"
        )
    folder = design.model_folder(model)
    assert folder is not None
    if not Path(folder).exists():
        raise UserError(f"{folder}: missing. The pipeline makes it: run snakemake {folder}")
    return folder
