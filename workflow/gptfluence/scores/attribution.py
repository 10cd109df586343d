"""Judge attribution methods by what retraining, single steps and known facts show: results/scores/attribution.parquet.

A score table holds S[i, z], above zero where training on example i lowers the loss of test example z. It is judged

- as a simulator of held-out runs (`simulators.additive`), as it is or with its scale fitted, by the measures of
  `scores.measures`, each the unweighted mean over test tasks; intervals: bootstrap over runs;
- by the linear datamodeling score (LDS; arXiv 2303.14186, sec. 3): GPTs are retrained on random subsets of the pool,
  and the sum of S[i, z] over a subset is to rank the subsets by z's final loss (mean over the orders that the subset
  was trained in). Spearman over subsets, mean over test examples; intervals: bootstrap over both at once;
- by the tail-patch score (arXiv 2410.17413, sec. 5): by how much one more training step on an example that the method
  puts among z's first ten lowers z's loss, in nats per token; mean over the ten and over test examples; intervals:
  bootstrap over test examples;
- by retrieval: whether it finds the training examples that state the fact that z asks for; intervals: bootstrap over
  such test examples. Only examples of the seen pool are retrieved or patched.

Beside the tables stand replays of the runs' own gradients, the mean curve (skill 0), a datamodel, and under the name of
`ceiling` the LDS that the mean loss over all orders would have: what noise leaves to the best method.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gptfluence.baselines.trivial import MeanCurve
from gptfluence.errors import UserError
from gptfluence.io import digest, write_parquet
from gptfluence.scores import measures, retrieval
from gptfluence.scores.measures import Array, Score, resample_counts
from gptfluence.scores.score import MEASURES
from gptfluence.simulators.additive import Additive
from gptfluence.simulators.base import Curricula, Dynamics
from gptfluence.simulators.data import GroupData, load_group, read_columns
from gptfluence.simulators.simulate import roll_out_replays

log = logging.getLogger("gptfluence")

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("group", "scenario", "model", "method", "measure")]
    + [(name, pa.float64()) for name in ("value", "low", "high")]
    + [("n", pa.int32())]
)

TOP = 10
"""How many training examples a method retrieves for a test example."""
IN_LOSS_UNITS = ("grad_dot", "tracin_cp")
"""Methods whose scores predict a change of the loss without a scale."""
REPLAYED = {"tracin_cp": "tracin_cp_replayed", "grad_dot": "grad_dot_replayed"}
"""Replays that share their names with score tables, and what they are called here."""
STRENGTHS = tuple(10.0**power for power in range(-3, 5))
"""Ridge strengths of the datamodel, in units of included examples."""

_SPLITS = ("fit", "validate", "held_out", "subset")
_ROUNDING = 1e-12  # relative spread below which sums of scores differ by rounding only

Scores = dict[tuple[str, str], Score]
"""By method and measure."""
Tables = dict[str, NDArray[Any]]
"""By method, [train, tests]."""
Draw = Callable[[str, int], Array]
"""Of (what, number): [resamples, number], how often each was drawn. All methods of a group share the draws."""


def judge_attribution(spec: dict[str, Any], output: Path) -> None:
    """Judge every method on every group.

    Args:
        spec: groups {group: as `load_group` reads it, with runs of all splits, and table, seconds, replays (paths),
            task_files ({training task: path}), pool (ids below are of the seen pool)},
            bootstrap_samples, bootstrap_seed, confidence.
        output: Parquet, one row for each (group, method, measure) that says something. n: of how many runs (as a
            simulator), subsets (LDS) or test examples (the others) the value is a mean; of seconds, 1.

    Raises:
        UserError: a file is missing, damaged or of another plan.
    """
    rows = []
    for name, group in spec["groups"].items():
        scores = _judge_group(group, spec)
        for (method, measure), score in scores.items():
            low, high = score.interval(spec["confidence"])
            where = (name, group["scenario"], group["model"], method, measure)
            rows.append(dict(zip(SCHEMA.names, (*where, score.value, low, high, score.n_runs), strict=True)))
        log.info("%s: %d methods judged", name, len({method for method, _ in scores}))
    rows.sort(key=lambda row: [row[name] for name in SCHEMA.names[:5]])
    settings = {key: spec[key] for key in ("bootstrap_samples", "bootstrap_seed", "confidence")}
    write_parquet(output, pa.Table.from_pylist(rows, SCHEMA), {"attribution": settings})


def _judge_group(group: dict[str, Any], settings: dict[str, Any]) -> Scores:
    """Return all scores of a group; `settings` holds bootstrap_samples and bootstrap_seed."""
    missing = sorted(set(_SPLITS) - {run["split"] for run in group["runs"]})
    if missing:
        raise UserError(f"{group['group']}: cannot be judged without runs of split {', '.join(missing)}")
    fitted = _load(group, "fit", "validate")
    held_out, subsets = (_load(group | {"table": None}, split) for split in ("held_out", "subset"))
    assert fitted.features.attribution is not None
    tables: Tables = dict(fitted.features.attribution.scores)
    seen = np.tile(np.arange(group["train_size"]) < group["pool"], len(group["train_tasks"]))

    def draw(what: str, number: int) -> Array:
        seed = [settings["bootstrap_seed"], int(digest([group["group"], what]), 16)]
        return resample_counts(number, settings["bootstrap_samples"], seed)

    simulated = _simulate(fitted, held_out) | {
        REPLAYED.get(name, name): values for name, values in roll_out_replays(group["replays"], held_out).items()
    }
    scores = _score_simulators(simulated, held_out, draw("seen", len(held_out.runs)))
    scores |= {(name, "seconds"): Score(value, np.empty(0), 1) for name, value in _seconds(group, tables).items()}
    tables["datamodel"] = fit_datamodel(fitted.dynamics, fitted.curricula, len(seen))
    scores |= _score_subsets(tables, subsets, draw)
    seen_tables = {name: table[seen] for name, table in tables.items()}
    scores |= _score_tail_patch(seen_tables, draw)
    return scores | _score_retrieval(seen_tables, _share_facts(group)[seen], draw)


def _load(group: dict[str, Any], *splits: str) -> GroupData:
    return load_group(group | {"runs": [run for run in group["runs"] if run["split"] in splits]})


def _seconds(group: dict[str, Any], tables: Tables) -> dict[str, float | None]:
    """Return the CPU seconds that each score table took; None where they are not known."""
    path = Path(group["seconds"])
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error}). Delete it and run snakemake again.") from None
    return {method: known.get(method) for method in tables}


def _score(values: Array, n: int) -> Score:
    """Return the score of [1 + resamples] values, the first of which is of the whole."""
    return Score(float(values[0]) if np.isfinite(values[0]) else None, values[1:], n)


def _mean(values: Array, counts: Array) -> Score:
    """Return the score that is the mean of [n] values, with `counts` [resamples, n]; None of none."""
    if not len(values):
        return Score(None, np.full(len(counts), np.nan), 0)
    return _score(np.concatenate([[values.mean()], counts @ values / len(values)]), len(values))


# ---------------------------------------------------------------------------------------------------- simulators


def _simulate(fitted: GroupData, held_out: GroupData) -> dict[str, Array]:
    """Simulate the held-out runs: [runs, steps + 1, tests] for each method."""
    assert fitted.features.attribution is not None
    methods: dict[str, Additive | MeanCurve] = {"mean_curve": MeanCurve()}
    for name in fitted.features.attribution.scores:
        if name in IN_LOSS_UNITS:
            methods[name] = Additive(name, "none")
        methods[f"{name}_scaled"] = Additive(name, "fitted")
    simulated = {}
    for name, method in methods.items():
        method.fit(fitted.dynamics, fitted.curricula, fitted.features)
        simulated[name] = method.simulate(held_out.curricula, held_out.dynamics.values[:, :1])
    return simulated


def _score_simulators(simulated: dict[str, Array], held_out: GroupData, counts: Array) -> Scores:
    """Score simulations of the held-out runs from step 1 on, as the mean over test tasks."""
    ends = np.cumsum(held_out.sizes)
    tasks = [slice(end - size, end) for end, size in zip(ends, held_out.sizes, strict=True)]
    measured = held_out.dynamics.values[:, 1:]
    curve = simulated["mean_curve"][:, 1:]
    scores: Scores = {}
    for method, values in simulated.items():
        for measure in MEASURES:
            by_task = []
            for tests in tasks:
                arrays = [values[:, 1:, tests], measured[:, :, tests]]
                if measure == "skill":
                    arrays.append(curve[:, :, tests])
                by_task.append(getattr(measures, measure)(*arrays, counts))
            scores[method, measure] = measures.average(by_task, len(held_out.runs))
    return scores


# ------------------------------------------------------------------------------------------------- random subsets


def included_examples(curricula: Curricula, train: int) -> NDArray[np.bool_]:
    """Return which training examples each run trains on at all: [runs, train]."""
    included = np.zeros((len(curricula.examples), train), bool)
    np.put_along_axis(included, curricula.examples.reshape(len(included), -1), True, axis=1)
    return included


def fit_datamodel(dynamics: Dynamics, curricula: Curricula, train: int) -> Array:
    """Fit a linear datamodel (arXiv 2202.00622): the final loss as a sum over the examples that a run trains on.

    Ridge regression with an offset on the fitting runs; the strength, one for all test examples, has the least squared
    error on the validation runs (ties: the stronger). An example that no fitting run trains on has weight 0.

    Returns:
        [train, tests], by how much training on an example lowers the final loss: the weights with their sign changed.
    """
    fitting = ~dynamics.validate
    included = included_examples(curricula, train).astype(float)
    final = dynamics.values[:, -1]
    included -= included[fitting].mean(axis=0)
    final = final - final[fitting].mean(axis=0)
    # Far fewer runs than examples: with the Gram matrix of the runs, whose eigenbasis serves all strengths.
    values, basis = np.linalg.eigh(included[fitting] @ included[fitting].T)
    best, lowest = np.zeros((train, final.shape[1])), float("inf")
    for strength in sorted(STRENGTHS, reverse=True):
        dual = basis @ ((basis.T @ final[fitting]) / (np.maximum(values, 0) + strength)[:, None])
        weights = included[fitting].T @ dual
        error = float(np.mean((included[dynamics.validate] @ weights - final[dynamics.validate]) ** 2))
        if error < lowest:
            best, lowest = weights, error
    return -best


def _score_subsets(tables: Tables, data: GroupData, draw: Draw) -> Scores:
    """Return the LDS of each table, and its ceiling."""
    train = len(next(iter(tables.values())))
    subsets, subset = np.unique(included_examples(data.curricula, train), axis=0, return_inverse=True)
    members = [np.flatnonzero(subset.ravel() == number) for number in range(len(subsets))]
    final = data.dynamics.values[:, -1]
    truth = np.stack([final[runs].mean(axis=0) for runs in members])
    # Scores say what is taken off the loss.
    predicted = np.stack([-(subsets.astype(float) @ table) for table in tables.values()])
    spread = np.ptp(predicted, axis=1, keepdims=True)
    predicted *= spread > _ROUNDING * np.abs(predicted).max(axis=1, keepdims=True)

    drawn = np.vstack([np.ones(len(subsets)), draw("subsets", len(subsets))])
    tests = np.vstack([np.ones(truth.shape[1]), draw("tests", truth.shape[1])])
    correlations = _mean_over_tests(rank_correlations(predicted, truth, drawn), tests)
    scores = {(name, "lds"): _score(values, len(subsets)) for name, values in zip(tables, correlations, strict=True)}
    orders = min(len(runs) for runs in members)
    repeated = np.stack([final[[runs[order] for runs in members]] for order in range(orders)])
    return scores | {("ceiling", "lds"): _score(_ceiling(repeated, drawn, tests), len(subsets))}


def rank_correlations(predicted: Array, truth: Array, counts: Array) -> Array:
    """Return Spearman's correlation over subsets, of each method, resample and test example.

    Ties share ranks. A prediction without a difference between subsets has a correlation of 0.

    Args:
        predicted: [methods, subsets, tests].
        truth: [subsets, tests].
        counts: [resamples, subsets], how often each subset counts.

    Returns:
        [methods, resamples, tests], NaN where the truth has no difference.
    """
    correlations = np.empty((len(predicted), len(counts), truth.shape[1]))
    for test in range(truth.shape[1]):
        ranks = _ranks(np.vstack([truth[None, :, test], predicted[:, :, test]]), counts)
        variances = np.einsum("mrs,mrs,rs->mr", ranks, ranks, counts)
        products = np.einsum("mrs,rs->mr", ranks[1:], ranks[0] * counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = products / np.sqrt(variances[1:] * variances[0])
        found[variances[1:] == 0] = 0.0
        found[:, variances[0] == 0] = np.nan
        correlations[:, :, test] = np.clip(found, -1, 1)
    return correlations


def _ranks(values: Array, counts: Array) -> Array:
    """Return average ranks less their mean in each resample: [rows, resamples, subsets]; `values`: [rows, subsets].

    A value's rank is how many drawn ones are below it, and half of those that equal it.
    """
    below = (values[:, None, :] < values[:, :, None]) + 0.5 * (values[:, None, :] == values[:, :, None])
    return counts @ below.swapaxes(1, 2) - counts.sum(axis=1)[:, None] / 2


def _mean_over_tests(correlations: Array, tests: Array) -> Array:
    """Average [methods, resamples, tests] over the drawn tests where defined: [methods, resamples]."""
    defined = np.isfinite(correlations)
    total = np.einsum("mrt,rt->mr", np.where(defined, correlations, 0), tests)
    number = np.einsum("mrt,rt->mr", defined, tests)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def _ceiling(repeated: Array, subsets: Array, tests: Array) -> Array:
    """Return the LDS of a method that knows each subset's expected loss over orders: [resamples]; NaN for one order.

    The mean rank correlation r of two orders gives the reliability of the mean over k orders, k r / (1 + (k - 1) r)
    (Spearman-Brown). What is free of noise correlates with that mean by the root of it.

    Args:
        repeated: [orders, subsets, tests], the final loss.
        subsets: [resamples, subsets], how often each subset counts.
        tests: [resamples, tests], how often each test example counts.
    """
    orders = len(repeated)
    if orders < 2:
        return np.full(len(subsets), np.nan)
    pairs = [
        rank_correlations(repeated[[one]], repeated[other], subsets)
        for one, other in itertools.combinations(range(orders), 2)
    ]
    single = _mean_over_tests(np.concatenate(pairs), tests).mean(axis=0)
    return np.sqrt(np.maximum(orders * single / (1 + (orders - 1) * single), 0))


# ------------------------------------------------------------------------------------------- retrieved examples


def _score_tail_patch(tables: Tables, draw: Draw) -> Scores:
    """Return the tail-patch score of each table's first examples; nothing if no steps were taken."""
    if "tail_patch" not in tables:
        log.warning("attribution.methods has no tail_patch: no tail-patch scores")
        return {}
    steps = tables["tail_patch"]
    counts = draw("tests", steps.shape[1])
    return {(name, "tail_patch"): _mean(top_mean(table, steps, TOP), counts) for name, table in tables.items()}


def top_mean(scores: NDArray[Any], values: NDArray[Any], k: int) -> Array:
    """Return the mean value of the k training examples with the highest scores: [tests].

    Where equal scores compete for the last places, the mean over all ways to choose among them.

    Args:
        scores: [train, tests].
        values: [train, tests].
        k: at most `train` count.
    """
    k = min(k, len(scores))
    least = np.partition(scores, len(scores) - k, axis=0)[len(scores) - k]
    above, equal = scores > least, scores == least
    places = k - above.sum(axis=0)
    values = np.asarray(values, float)
    return ((above * values).sum(axis=0) + places * (equal * values).sum(axis=0) / equal.sum(axis=0)) / k


def _score_retrieval(tables: Tables, relevant: NDArray[np.bool_], draw: Draw) -> Scores:
    """Return how well each table finds the relevant training examples; None where there are none."""
    counts = draw("queries", max(int(relevant.any(axis=0).sum()), 1))
    scores: Scores = {}
    for name, table in tables.items():
        ranked = retrieval.ranked_relevance(table, relevant)
        scores[name, "mrr"] = _mean(retrieval.reciprocal_ranks(ranked), counts)
        scores[name, f"recall_at_{TOP}"] = _mean(retrieval.recalls(ranked, TOP), counts)
    return scores


def _share_facts(group: dict[str, Any]) -> NDArray[np.bool_]:
    """Return which training examples state a fact that a test example is about: [train, tests]."""
    sizes = [group["test_sizes"][task] for task in group["test_tasks"]]
    first_test = dict(zip(group["test_tasks"], np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    numbers: dict[str, int] = {}  # of facts
    stated: dict[bool, list[tuple[int, int]]] = {False: [], True: []}  # by training and test: (example, fact)
    for place, task in enumerate(group["train_tasks"]):
        table = read_columns(group["task_files"][task], ["part", "example", "format", "facts"])
        for row in table.filter(pc.equal(table["format"], group["format"])).to_pylist():
            is_test = row["part"] == "test"
            if is_test and task not in first_test:
                continue
            first = first_test[task] if is_test else place * group["train_size"]
            for fact in row["facts"]:
                stated[is_test].append((first + row["example"], numbers.setdefault(fact, len(numbers))))
    train = _incidence(stated[False], group["train_size"] * len(group["train_tasks"]), len(numbers))
    return (train @ _incidence(stated[True], sum(sizes), len(numbers)).T).toarray() > 0


def _incidence(pairs: list[tuple[int, int]], examples: int, facts: int) -> csr_array:
    """Return [examples, facts], above zero where an example states a fact."""
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(examples, facts))
