"""EK-FAC through kronfluence, against autograd and against a dense computation of the same influence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gptfluence.attribution.ekfac import _drawn, ekfac_scores
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import NAME, Stream, mean_losses, pack_examples, read, token_losses
from gptfluence.errors import UserError
from gpts import tiny
from transformers import PreTrainedModel

VOCABULARY = 40
SETTINGS = {"damping": 0.1, "seed": 0}


def examples(count: int, seed: int) -> list[Encoded]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(4, 14, count)
    return [Encoded(tuple(generator.integers(1, VOCABULARY, n).tolist()), int(generator.integers(1, n - 1)), False)
            for n in sizes]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny("neox", vocabulary=VOCABULARY, hidden_size=8, intermediate_size=12, num_attention_heads=2)


TRAIN, TEST = examples(12, 1), examples(5, 2)


def layers_of(model: PreTrainedModel) -> list[torch.nn.Linear]:
    head = model.get_output_embeddings()
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]


def gradients(
    model: PreTrainedModel, layers: list[torch.nn.Linear], loss: Callable[[Stream], torch.Tensor], example: Encoded
) -> list[np.ndarray]:
    """Of one example's loss, a matrix a layer: [out, in + 1], the bias last (without one: [out, in])."""
    stream = Stream.of([pack_examples([example])], torch.device("cpu"))
    parameters = [p for layer in layers for p in layer.parameters()]
    found = iter(torch.autograd.grad(loss(stream), parameters))
    joined = [[next(found) for _ in layer.parameters()] for layer in layers]
    return [torch.cat([g.reshape(len(g), -1) for g in own], 1).numpy() for own in joined]


def test_without_a_hessian_it_is_the_plain_product_of_gradients(model: PreTrainedModel) -> None:
    pytest.importorskip("kronfluence")

    def loss(stream: Stream) -> torch.Tensor:
        return mean_losses(lambda s: read(model, s), stream)[0]

    flat = [
        np.stack([np.concatenate([g.ravel() for g in gradients(model, layers_of(model), loss, e)]) for e in part])
        for part in (TRAIN, TEST)
    ]
    scores = ekfac_scores(model, TRAIN, TEST, SETTINGS, strategy="identity")
    assert scores.shape == (12, 5)
    np.testing.assert_allclose(scores, flat[0] @ flat[1].T, rtol=1e-4, atol=1e-5 * np.abs(scores).max())


@pytest.mark.parametrize("damping", [0.02, 0.1, 0.5])
def test_it_equals_a_dense_computation(model: PreTrainedModel, damping: float) -> None:
    """Empirical Fisher: factors from activations and gradients of true labels, each layer's matrix solved densely."""
    pytest.importorskip("kronfluence")
    expected = dense(model, TRAIN, TEST, damping)
    scores = ekfac_scores(model, TRAIN, TEST, {"damping": damping, "seed": 0}, empirical=True)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def dense(model: PreTrainedModel, train: list[Encoded], test: list[Encoded], damping: float) -> np.ndarray:
    layers = layers_of(model)
    per_token = np.mean([e.target for e in train]) ** -0.5

    def mean(stream: Stream) -> torch.Tensor:
        return mean_losses(lambda s: read(model, s), stream)[0]

    def scaled_sum(stream: Stream) -> torch.Tensor:
        return token_losses(lambda s: read(model, s), stream).sum() * per_token

    inputs: dict[torch.nn.Linear, list[torch.Tensor]] = {layer: [] for layer in layers}
    outputs: dict[torch.nn.Linear, list[torch.Tensor]] = {layer: [] for layer in layers}

    def keep(layer: torch.nn.Linear, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        inputs[layer].append(args[0].detach()[0])
        output.register_hook(lambda gradient: outputs[layer].append(gradient[0]))

    handles = [layer.register_forward_hook(keep) for layer in layers]
    factor_gradients = [gradients(model, layers, scaled_sum, e) for e in train]
    for handle in handles:
        handle.remove()
    train_gradients, test_gradients = ([gradients(model, layers, mean, e) for e in part] for part in (train, test))
    scores = np.zeros((len(train), len(test)))
    for i, layer in enumerate(layers):
        a = torch.cat(inputs[layer]).double().numpy()
        a = np.hstack([a, np.ones((len(a), 1))]) if layer.bias is not None else a
        g = torch.cat(outputs[layer]).double().numpy()
        vectors = [np.linalg.eigh(x.T @ x / len(x))[1] for x in (g, a)]
        basis = np.kron(*vectors)
        squares = np.stack([own[i].ravel() @ basis for own in factor_gradients]) ** 2
        hessian = basis @ np.diag(squares.mean(0)) @ basis.T
        hessian += damping * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
        own_train, own_test = (np.stack([own[i].ravel() for own in part]) for part in (train_gradients, test_gradients))
        scores += own_train @ np.linalg.solve(hessian, own_test.T)
    return scores


def test_strong_damping_leaves_the_plain_product_of_each_layer(model: PreTrainedModel) -> None:
    pytest.importorskip("kronfluence")
    scores = ekfac_scores(model, TRAIN, TEST, {"damping": 1e5, "seed": 0})
    twice = ekfac_scores(model, TRAIN, TEST, {"damping": 2e5, "seed": 0})
    np.testing.assert_allclose(2 * twice, scores, rtol=1e-3, atol=1e-4 * np.abs(scores).max())


def test_labels_are_drawn_as_often_as_the_model_predicts_them() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, -30.0, 1.0])
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = _drawn(logits.expand(10_000, -1), uniform)
    counts = torch.bincount(drawn, minlength=5)
    assert (counts - 10_000 * logits.softmax(0)).abs().max() <= 1


def test_drawn_labels_are_not_the_true_ones_and_change_with_the_seed(model: PreTrainedModel) -> None:
    pytest.importorskip("kronfluence")
    one, other = (ekfac_scores(model, TRAIN, TEST, {"damping": 0.1, "seed": seed}) for seed in (0, 1))
    empirical = ekfac_scores(model, TRAIN, TEST, SETTINGS, empirical=True)
    tolerance = 1e-2 * np.abs(one).max()
    assert np.abs(one - other).max() > tolerance
    assert np.abs(one - empirical).max() > tolerance
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.6


def test_scores_do_not_depend_on_the_order_of_examples_or_on_company(model: PreTrainedModel) -> None:
    pytest.importorskip("kronfluence")
    scores = ekfac_scores(model, TRAIN, TEST, SETTINGS)
    order = np.random.default_rng(3).permutation(len(TRAIN))
    turned = ekfac_scores(model, [TRAIN[i] for i in order], TEST[::-1], SETTINGS)
    tolerance = 1e-4 * np.abs(scores).max()
    np.testing.assert_allclose(turned, scores[order][:, ::-1], rtol=1e-3, atol=tolerance)
    np.testing.assert_allclose(ekfac_scores(model, TRAIN, TEST[2:3], SETTINGS), scores[:, 2:3], atol=tolerance)
    np.testing.assert_array_equal(ekfac_scores(model, TRAIN, TEST, SETTINGS), scores)


def test_the_model_is_left_as_it_was(model: PreTrainedModel) -> None:
    pytest.importorskip("kronfluence")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    ekfac_scores(model, TRAIN, TEST, SETTINGS)
    assert model.config._attn_implementation == NAME
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(random, torch.random.get_rng_state())
    assert {type(layer) for layer in layers_of(model)} == {torch.nn.Linear}


def test_adapters_alone_are_counted_where_they_alone_are_trained() -> None:
    pytest.importorskip("kronfluence")
    from gptfluence.dynamics.models import add_adapters

    base = tiny("llama", vocabulary=VOCABULARY, hidden_size=8, intermediate_size=12, num_attention_heads=2)
    lora = {"rank": 2, "alpha": 4, "dropout": 0.1, "targets": ["q_proj"]}
    torch.manual_seed(0)
    adapted = add_adapters(base, lora).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    trained = [p for p in adapted.parameters() if p.requires_grad]

    def flat(example: Encoded) -> torch.Tensor:
        stream = Stream.of([pack_examples([example])], torch.device("cpu"))
        loss = mean_losses(lambda s: read(adapted, s), stream)[0]
        return torch.cat([g.ravel() for g in torch.autograd.grad(loss, trained)])

    expected = torch.stack([flat(e) for e in TRAIN]) @ torch.stack([flat(e) for e in TEST]).T
    scores = ekfac_scores(adapted, TRAIN, TEST, SETTINGS, strategy="identity")
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-5 * np.abs(scores).max())


def test_layers_of_gpt_2_are_refused() -> None:
    pytest.importorskip("kronfluence")
    with pytest.raises(UserError, match=r"transformer\.h\.0\.attn\.c_attn is a Conv1D.*leave ekfac out"):
        ekfac_scores(tiny("gpt2", vocabulary=VOCABULARY), TRAIN, TEST, SETTINGS)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    """In a process of its own, which sees the installed packages alone: kronfluence is none of the requirements."""
    code = (
        "import importlib.util, sys\n"
        "if importlib.util.find_spec('kronfluence'): sys.exit(3)\n"
        "import torch\n"
        "from gptfluence.attribution.ekfac import ekfac_scores\n"
        "from gptfluence.errors import UserError\n"
        "try: ekfac_scores(torch.nn.Linear(1, 1), [], [], {})\n"
        "except UserError as error: print(error)\n"
    )
    workflow = Path(__file__).parents[3] / "workflow"
    environment = {**os.environ, "PYTHONPATH": str(workflow)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("kronfluence is installed here")
    assert done.returncode == 0, done.stderr
    assert "pip install 'kronfluence==1.0.1'" in done.stdout
