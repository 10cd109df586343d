"""Influence functions by EK-FAC (Grosse et al., arXiv 2308.03296), computed by kronfluence, an optional package.

The Hessian is that of what runs train on, the mean loss over all target tokens, in its Gauss-Newton form: the Fisher
information with labels that the model itself draws, block by block a Kronecker product whose eigenvalues are corrected
(George et al., arXiv 1806.03884). The blocks are the linear layers, biases with them, without the output embedding.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from gptfluence.dynamics.examples import Encoded
from gptfluence.errors import UserError
from gptfluence.randomness import named_generator

if TYPE_CHECKING:
    from kronfluence.analyzer import Analyzer

_BATCH_TOKENS = 4096
_BATCH_NUMBERS = 1 << 26  # of logits, of a layer's gradients, or of the queries' gradients that are held at once
_IGNORED = -100
_FACTORS, _SCORES = "factors", "scores"

Batch = dict[str, torch.Tensor]


def ekfac_scores(
    model: torch.nn.Module,
    train: Sequence[Encoded],
    test: Sequence[Encoded],
    settings: Mapping[str, Any],
    *,
    strategy: Literal["ekfac", "identity"] = "ekfac",
    empirical: bool = False,
) -> np.ndarray:
    """Return the influence of each training example on each test: <g_z, (H + damping)^-1 g_i>.

    The model is copied; its packed attention does not suit padded batches, so that the copy has the library's own.
    Memory: the copy, the factors, and about 0.5 GB; the tests' gradients pass in turns, each a pass over the training
    examples.

    Args:
        model: as `dynamics.models.load_model` gives it, with or without adapters.
        train, test: H is that of the training examples.
        settings: ``damping``, a share of each layer's mean eigenvalue (the usual one is 0.1); ``seed`` of the labels
            that the model draws: they depend on it and on the example's tokens alone.
        strategy: identity leaves H out: plain inner products of gradients.
        empirical: take H with the true labels instead (empirical Fisher).

    Returns:
        [train, tests], float32; above 0: training on i lowers the loss of z.

    Raises:
        UserError: kronfluence is not installed, the model's layers are of a kind that it does not know, or a score is
            not finite.
    """
    try:
        from kronfluence.analyzer import Analyzer, prepare_model
    except ImportError as error:
        raise UserError(
            f"ekfac needs the package kronfluence ({error}): run pip install 'kronfluence==1.0.1', "
            "or leave ekfac out of attribution.methods"
        ) from None
    names = _layers(model)
    device = next(model.parameters()).device
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("sdpa")
    order = {part: np.argsort([len(e.tokens) for e in examples], kind="stable")
             for part, examples in (("train", train), ("test", test))}  # fmt: skip
    train_rows = [_Row(train[i], settings["seed"]) for i in order["train"]]
    test_rows = [_Row(test[i], settings["seed"]) for i in order["test"]]
    # The gradient of the sum over an example's tokens, so scaled that its mean square is that of the mean over tokens.
    scale = (sum(example.target for example in train) / len(train)) ** -0.5
    with tempfile.TemporaryDirectory(prefix="gptfluence-ekfac-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package is of 2024
        fitted, scored = _task(names, scale), _task(names, None)
        twin = prepare_model(twin, fitted)

        def analyzer(task: Any) -> Analyzer:
            cpu = device.type == "cpu"
            return Analyzer(_FACTORS, twin, task, cpu=cpu, log_level=30, disable_tqdm=True, output_dir=folder)

        sizes = _BatchSizes.of(twin, names, [*train, *test])
        _fit(analyzer(fitted), train_rows, sizes, settings["damping"], strategy, empirical)
        scores = _score(analyzer(scored), train_rows, test_rows, sizes)
    if not np.isfinite(scores).all():
        raise UserError("ekfac: scores are not finite: raise attribution.damping")
    result = np.empty_like(scores)
    result[np.ix_(order["train"], order["test"])] = scores
    return result


def _layers(model: torch.nn.Module) -> list[str]:
    """Return the names of the trained linear layers, without the output embedding.

    Raises:
        UserError: there are none, or some are of GPT-2's kind.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    trained = {name: module for name, module in model.named_modules()
               if module is not head and getattr(getattr(module, "weight", None), "requires_grad", False)}  # fmt: skip
    if foreign := [name for name, module in trained.items() if isinstance(module, Conv1D)]:
        raise UserError(
            f"ekfac: the layer {foreign[0]} is a Conv1D, as GPT-2 has them, which kronfluence does not know: "
            "leave ekfac out of attribution.methods for this model"
        )
    names = [name for name, module in trained.items() if type(module) is torch.nn.Linear]
    if not names:
        raise UserError("ekfac: the model has no trained linear layers: leave ekfac out of attribution.methods")
    return names


class _BatchSizes:
    """How many examples are computed at once.

    Attributes:
        examples: whose per-example gradients of one layer are held.
        tests: whose gradients of all layers are held.
    """

    def __init__(self, examples: int, tests: int) -> None:
        self.examples, self.tests = examples, tests

    @classmethod
    def of(cls, model: torch.nn.Module, names: Sequence[str], examples: Sequence[Encoded]) -> _BatchSizes:
        layers = [sum(p.numel() for p in model.get_submodule(name).parameters()) for name in names]
        longest = max(len(example.tokens) for example in examples)
        vocabulary = model.get_output_embeddings().weight.shape[0]
        most = min(_BATCH_TOKENS // longest, _BATCH_NUMBERS // (longest * vocabulary), _BATCH_NUMBERS // max(layers))
        return cls(max(1, most), max(1, min(most, _BATCH_NUMBERS // sum(layers))))


# ------------------------------------------------------------------------------------------------ the package's part


def _fit(
    analyzer: Analyzer, rows: list[_Row], sizes: _BatchSizes, damping: float, strategy: str, empirical: bool
) -> None:
    """Fit the factors, and damp them."""
    from kronfluence.arguments import FactorArguments
    from kronfluence.factor.eigen import save_lambda_matrices
    from kronfluence.utils.constants import HEURISTIC_DAMPING_SCALE, LAMBDA_MATRIX_NAME, NUM_LAMBDA_PROCESSED

    analyzer.set_dataloader_kwargs(_loading())
    arguments = FactorArguments(
        strategy=strategy, use_empirical_fisher=empirical, covariance_max_examples=None, lambda_max_examples=None
    )
    analyzer.fit_all_factors(_FACTORS, rows, per_device_batch_size=sizes.examples, factor_args=arguments)
    factors = analyzer.load_lambda_matrices(_FACTORS)
    if factors is None:
        return  # there is nothing to damp
    for name, total in factors[LAMBDA_MATRIX_NAME].items():
        mean = total.double().mean() / factors[NUM_LAMBDA_PROCESSED][name]
        if not mean > 0:
            raise UserError(f"ekfac: the Fisher information of the layer {name} is {mean}: nothing reaches it")
        # The package adds a share of the mean of its own: what the eigenvalues are shifted by makes that `damping`.
        shift = (damping - HEURISTIC_DAMPING_SCALE) / (1 + HEURISTIC_DAMPING_SCALE) * mean
        factors[LAMBDA_MATRIX_NAME][name] = total + (shift * factors[NUM_LAMBDA_PROCESSED][name]).to(total)
    save_lambda_matrices(analyzer.factors_output_dir(_FACTORS), factors)


def _score(analyzer: Analyzer, train: list[_Row], test: list[_Row], sizes: _BatchSizes) -> np.ndarray:
    """Return the scores, [train, tests], in the order of the rows."""
    from kronfluence.arguments import ScoreArguments

    analyzer.set_dataloader_kwargs(_loading())
    analyzer.compute_pairwise_scores(
        _SCORES, _FACTORS, query_dataset=test, train_dataset=train, per_device_query_batch_size=sizes.tests,
        per_device_train_batch_size=sizes.examples, score_args=ScoreArguments(damping_factor=None),
    )  # fmt: skip
    scores = analyzer.load_pairwise_scores(_SCORES)
    assert scores is not None
    return scores["all_modules"].T.float().numpy()


def _loading() -> Any:
    from kronfluence.utils.dataset import DataLoaderKwargs

    # With a generator of its own, the loader does not draw from torch's global one.
    return DataLoaderKwargs(collate_fn=_collate, generator=torch.Generator())


class _Row:
    """An example and a number in [0, 1) for each label that the model draws."""

    def __init__(self, example: Encoded, seed: int) -> None:
        read = len(example.tokens) - 1  # nothing is predicted from the last token
        self.tokens = torch.tensor(example.tokens[:-1])
        self.labels = torch.full((read,), _IGNORED)
        self.labels[read - example.target :] = torch.tensor(example.tokens[-example.target :])
        self.uniform = torch.from_numpy(named_generator("ekfac", seed, *example.tokens).random(read))


def _collate(rows: list[_Row]) -> Batch:
    def padded(tensors: list[torch.Tensor], value: float) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    return {
        "tokens": padded([row.tokens for row in rows], 0),
        "labels": padded([row.labels for row in rows], _IGNORED),
        "uniform": padded([row.uniform for row in rows], 0.0),
        "real": padded([torch.ones_like(row.tokens) for row in rows], 0),
    }


def _task(names: list[str], scale: float | None) -> Any:
    """Return the package's view of a causal language model.

    Args:
        names: of the layers.
        scale: of the summed loss over an example's tokens; None: their mean.
    """
    from kronfluence.task import Task

    class Language(Task):
        def compute_train_loss(self, batch: Batch, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
            # What fills a row up stands behind all real tokens, which do not look ahead: no mask is needed.
            counted = batch["labels"] != _IGNORED
            logits = model(input_ids=batch["tokens"], use_cache=False).logits[counted].float()
            labels = _drawn(logits.detach(), batch["uniform"][counted]) if sample else batch["labels"][counted]
            losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            weights = (1 / counted.sum(1) if scale is None else torch.full((len(counted),), scale)).to(losses)
            return losses @ weights.repeat_interleave(counted.sum(1))

        def compute_measurement(self, batch: Batch, model: torch.nn.Module) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: Batch) -> torch.Tensor:
            return batch["real"]

    return Language()


def _drawn(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return a label for each token, drawn from what the model predicts, [n, vocabulary]: [n]."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    places = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    return places.clamp_max(logits.shape[-1] - 1)
