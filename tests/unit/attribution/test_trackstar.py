"""TrackStar against a dense computation in numpy, from gradients that autograd gives one example at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import gpts
import numpy as np
import pytest
import torch
from encoded import random_examples
from gptfluence.attribution import hooks, trackstar
from gptfluence.attribution.hooks import Block, ExampleGradients, formable
from gptfluence.attribution.trackstar import Encoder, balance, divisors, group_of, mean_squares, scores
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import Stream, pack_examples, read
from gptfluence.errors import UserError

VOCABULARY = 40
BUDGET = Budget(64, 64)
DAMPING = 0.1
SETTINGS = {"projection": 4, "seed": 3}
WHOLE = SETTINGS | {"projection": 64}  # no side of a parameter is longer, so nothing is projected


def examples(count: int, seed: int) -> list[Encoded]:
    return random_examples(count, seed, VOCABULARY)


TRAIN, TESTS = examples(14, 1), examples(6, 2)


MODEL = gpts.tiny("neox", vocabulary=VOCABULARY, hidden_size=16, intermediate_size=24, num_attention_heads=2)


@pytest.fixture(scope="module")
def gradients() -> ExampleGradients:
    return ExampleGradients(MODEL)


@pytest.fixture(scope="module")
def moments(gradients: ExampleGradients) -> dict[str, torch.Tensor]:
    """Unlike from number to number, and a tenth of them zero: rows that no run has touched."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for block in gradients.blocks:
        values = torch.rand(block.shape, generator=generator) ** 3 + 0.01
        values[torch.rand(block.shape, generator=generator) < 0.1] = 0
        found[block.name] = values
    return found


def autograd(gradients: ExampleGradients, some: Sequence[Encoded]) -> dict[str, np.ndarray]:
    """Of each example alone, in double precision: [examples, *shape] of each parameter."""
    model = copy.deepcopy(MODEL).double()
    parameters = dict(model.named_parameters())
    names = [block.name for block in gradients.blocks]
    rows = []
    for example in some:
        stream = Stream.of([pack_examples([example])], torch.device("cpu"))
        loss = torch.nn.functional.cross_entropy(read(model, stream), stream.labels)
        rows.append(torch.autograd.grad(loss, [parameters[name] for name in names]))
    return {name: torch.stack(own).numpy() for name, own in zip(names, zip(*rows, strict=True), strict=True)}


def dense_encodings(
    gradients: ExampleGradients, encoder: Encoder, some: Sequence[Encoded], moments: dict[str, torch.Tensor] | None
) -> np.ndarray:
    """P (g / sqrt(V)), one parameter beside the other, with the encoder's P as dense matrices."""
    parts = []
    for (name, gradient), projection in zip(autograd(gradients, some).items(), encoder.projections, strict=True):
        if moments is not None:
            moment = moments[name].numpy()
            gradient = gradient / np.sqrt(np.maximum(moment, moment.mean() / 100))
        if projection.right is None:
            parts.append(np.einsum("pn,en->ep", projection.left, gradient))
        else:
            parts.append(
                np.einsum("po,eoi,qi->epq", projection.left, gradient, projection.right).reshape(len(some), -1)
            )
    return np.concatenate(parts, 1)


def block_diagonal(encodings: np.ndarray, groups: np.ndarray) -> np.ndarray:
    whole = encodings.T @ encodings / len(encodings)
    return np.where(groups[:, None] == groups, whole, 0)


def dense_balance(train: np.ndarray, tests: np.ndarray) -> float:
    """All eigenvalues of the whole matrices, sorted; those that are not zero counted."""
    values = [np.sort(np.linalg.eigvalsh(matrix))[::-1] for matrix in (train, tests)]
    rank = round(1000 / 65536 * min((v > 1e-9 * v[0]).sum() for v in values))
    of_train, of_tests = (v[max(rank, 1) - 1] for v in values)
    return of_train / (of_train + of_tests)


def dense_scores(
    train: np.ndarray,
    tests: np.ndarray,
    groups: np.ndarray,
    *,
    hessian: bool = True,
    mix: bool = True,
    norm: bool = True,
) -> np.ndarray:
    if hessian:
        matrix = block_diagonal(train, groups)
        if mix:
            other = block_diagonal(tests, groups)
            share = dense_balance(matrix, other)
            matrix = share * other + (1 - share) * matrix
        sizes = np.bincount(groups)
        means = np.bincount(groups, np.diag(matrix)) / sizes
        # g' R^-1 g, by solving: no eigenvectors.
        solved = np.linalg.solve(matrix + np.diag(DAMPING * means[groups]), np.concatenate([train, tests]).T).T
    else:
        solved = np.concatenate([train, tests])
    products = np.concatenate([train, tests]) @ solved.T
    found = products[: len(train), len(train) :]
    if norm:
        lengths = np.sqrt(np.diag(products))
        found = found / np.outer(lengths[: len(train)], lengths[len(train) :])
    return found


# ---------------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("settings", [SETTINGS, WHOLE])
def test_encodings_equal_a_dense_projection(
    gradients: ExampleGradients, moments: dict[str, torch.Tensor], corrected: bool, settings: dict[str, int]
) -> None:
    own = moments if corrected else None
    encoder = Encoder(gradients, settings, own)
    found = encoder.encode_all(TRAIN, BUDGET)
    assert found.shape == (14, encoder.width) and len(encoder.groups) == encoder.width
    expected = dense_encodings(gradients, encoder, TRAIN, own)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_projections_keep_inner_products_on_average(gradients: ExampleGradients) -> None:
    whole = Encoder(gradients, WHOLE, None).encode_all(TRAIN, BUDGET)
    some = [Encoder(gradients, SETTINGS | {"seed": seed}, None).encode_all(TRAIN, BUDGET) for seed in range(40)]
    mean = np.mean([encodings @ encodings.T for encodings in some], axis=0)
    products = whole @ whole.T
    assert np.corrcoef(mean.ravel(), products.ravel())[0, 1] > 0.98
    assert abs(np.trace(mean) / np.trace(products) - 1) < 0.1


def test_no_gradient_explodes_where_second_moments_are_zero() -> None:
    block = Block("embedding", "embedding", (2, 2))
    (found,) = divisors([block], {"embedding": torch.tensor([[0.0, 4.0], [4.0, 0.0]])}).values()
    torch.testing.assert_close(found, torch.tensor([[0.02, 4.0], [4.0, 0.02]]).sqrt())
    (found,) = divisors([block], {"embedding": torch.zeros(2, 2)}).values()
    assert (found == 1).all()


def test_mean_squares_equal_autograd(gradients: ExampleGradients) -> None:
    found = mean_squares(gradients, TRAIN, BUDGET)
    for name, values in autograd(gradients, TRAIN).items():
        expected = (values**2).mean(0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6 * expected.max(), err_msg=name)


@pytest.mark.parametrize("kind", ["neox", "llama", "gpt2"])
def test_r_has_a_block_for_each_layers_attention_and_for_its_mlp(kind: str) -> None:
    blocks = ExampleGradients(gpts.tiny(kind, vocabulary=VOCABULARY)).blocks
    groups: dict[str, list[str]] = {}
    for block in blocks:
        groups.setdefault(group_of(block), []).append(block.name)
    layers = {name for name in groups if name[0].isdigit()}
    assert layers == {f"{layer} {part}" for layer in (0, 1) for part in ("attention", "mlp")}
    for layer in (0, 1):
        matrices = {b.name for b in blocks if f".{layer}." in b.name and len(b.shape) == 2}
        attention = {name for name in matrices if "attention." in name or "attn." in name}
        assert attention and matrices - attention
        assert matrices & set(groups[f"{layer} attention"]) == attention
        assert matrices - attention <= set(groups[f"{layer} mlp"])
    # Embedding and head have blocks of their own.
    others = [name for name, own in groups.items() if not name[0].isdigit() and any("weight" in n for n in own)]
    assert len(others) >= 2 and all(len({n.rpartition(".")[0] for n in groups[name]}) == 1 for name in others)


def test_gradients_are_formed_of_few_examples_at_once(
    gradients: ExampleGradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one parameter's gradients of many examples are larger than memory allows."""
    largest = max(block.size for block in gradients.blocks)
    monkeypatch.setattr(hooks, "_FORMED", 3 * largest + 1)
    wide = Budget(10_000, 10_000)
    packs = list(formable(gradients, TRAIN, wide))
    assert max(len(rows) for rows, _ in packs) == 3
    assert sorted(np.concatenate([rows for rows, _ in packs])) == list(range(14))
    for rows, captured in packs:
        alone = [gradients.capture(pack_examples([TRAIN[row]])).losses for row in rows]
        torch.testing.assert_close(captured.losses, torch.cat(alone))
    few = Encoder(gradients, SETTINGS, None).encode_all(TRAIN, wide)
    monkeypatch.setattr(hooks, "_FORMED", 1)
    np.testing.assert_allclose(Encoder(gradients, SETTINGS, None).encode_all(TRAIN, wide), few, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("without", [{}, {"hessian": False}, {"mix": False}, {"norm": False}])
def test_scores_equal_a_dense_computation(
    gradients: ExampleGradients, moments: dict[str, torch.Tensor], without: dict[str, bool], corrected: bool
) -> None:
    own = moments if corrected else None
    encoder = Encoder(gradients, SETTINGS, own)
    found = scores(*(encoder.encode_all(some, BUDGET) for some in (TRAIN, TESTS)), encoder.groups, DAMPING, **without)
    assert found.shape == (14, 6) and found.dtype == np.float32
    train, tests = (dense_encodings(gradients, encoder, some, own) for some in (TRAIN, TESTS))
    expected = dense_scores(train, tests, encoder.groups, **without)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_ablations_differ(gradients: ExampleGradients, moments: dict[str, torch.Tensor]) -> None:
    encoder = Encoder(gradients, SETTINGS, moments)
    train, tests = (encoder.encode_all(some, BUDGET) for some in (TRAIN, TESTS))
    found = [scores(train, tests, encoder.groups, DAMPING, **without)
             for without in ({}, {"hessian": False}, {"mix": False}, {"norm": False})]  # fmt: skip
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.999


def test_whole_gradients_score_as_projections_that_leave_all(
    gradients: ExampleGradients, moments: dict[str, torch.Tensor]
) -> None:
    """The one inverts matrices as large as the parameters, the other as the examples."""
    encoder = Encoder(gradients, WHOLE, moments)
    assert encoder.width == sum(block.size for block in gradients.blocks)
    expected = scores(*(encoder.encode_all(some, BUDGET) for some in (TRAIN, TESTS)), encoder.groups, DAMPING)
    found = trackstar.whole_scores(gradients, TRAIN, TESTS, moments, DAMPING, BUDGET)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_test_that_is_a_training_example_too_is_the_same_example() -> None:
    """Also where R's blocks are so large that its damping is no more than the rounding of fp32."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 1, "initializer_range": 0.1}
    large, train = ExampleGradients(gpts.tiny("neox", vocabulary=VOCABULARY, **sizes)), examples(30, 1)
    moments = mean_squares(large, train, BUDGET)
    found = trackstar.whole_scores(large, train, [*TESTS, *train], moments, DAMPING, BUDGET)
    np.testing.assert_allclose(np.diag(found[:, 6:]), 1, atol=1e-3)
    assert (found[:, 6:].argmax(0) == np.arange(30)).all() and (np.abs(found) <= 1 + 1e-3).all()


def test_an_example_whose_loss_is_not_finite_is_named_and_on_which_side(moments: dict[str, torch.Tensor]) -> None:
    model = copy.deepcopy(MODEL)
    unlucky = VOCABULARY - 1
    with torch.no_grad():
        model.get_input_embeddings().weight[unlucky] = torch.nan
    train, tests = ([Encoded(tuple(min(t, unlucky - 1) for t in e.tokens), e.target, False) for e in some]
                    for some in (TRAIN, TESTS))  # fmt: skip
    bad, broken = Encoded((1, unlucky, 2, 3), 1, False), ExampleGradients(model)
    with pytest.raises(UserError, match=r"^example 14: its loss is not finite"):
        trackstar.whole_scores(broken, [*train, bad], tests, moments, DAMPING, BUDGET)
    with pytest.raises(UserError, match=r"^test example 6: its loss is not finite"):
        trackstar.whole_scores(broken, train, [*tests, bad], moments, DAMPING, BUDGET)


def test_scores_depend_on_neither_batches_nor_order(
    gradients: ExampleGradients, moments: dict[str, torch.Tensor]
) -> None:
    order = np.random.default_rng(1).permutation(len(TRAIN))

    def both(train: list[Encoded], budget: Budget) -> tuple[np.ndarray, np.ndarray]:
        encoder = Encoder(gradients, SETTINGS, moments)
        encodings = [encoder.encode_all(some, budget) for some in (train, TESTS)]
        whole = trackstar.whole_scores(gradients, train, TESTS, moments, DAMPING, budget)
        return scores(*encodings, encoder.groups, DAMPING), whole

    first = both(TRAIN, Budget(20, 20))
    second = both([TRAIN[i] for i in order], Budget(4096, 4096))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one[order], other, atol=1e-4)


def test_an_example_is_nearest_to_itself(gradients: ExampleGradients, moments: dict[str, torch.Tensor]) -> None:
    encoder = Encoder(gradients, SETTINGS, moments)
    encodings = encoder.encode_all(TRAIN, BUDGET)
    found = scores(encodings, encodings, encoder.groups, DAMPING)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-5)
    assert (np.abs(found) <= 1 + 1e-5).all() and (found.argmax(0) == np.arange(14)).all()


def test_unit_norm_makes_scale_not_count() -> None:
    random_ = np.random.default_rng(1)
    groups = np.repeat([0, 1], 5)
    train, tests = random_.normal(size=(9, 10)), random_.normal(size=(4, 10))
    longer = train.copy()
    longer[0] *= 100
    plain = {"hessian": False}
    np.testing.assert_allclose(
        scores(train, tests, groups, DAMPING, **plain), scores(longer, tests, groups, DAMPING, **plain), rtol=1e-5
    )
    apart = [scores(some, tests, groups, DAMPING, norm=False, **plain) for some in (train, longer)]
    np.testing.assert_allclose(apart[1][0], apart[0][0] * 100, rtol=1e-5)


def test_gradients_of_zeros_score_zero() -> None:
    random_ = np.random.default_rng(1)
    groups = np.repeat([0, 1], 5)
    train, tests = random_.normal(size=(9, 10)), random_.normal(size=(4, 10))
    train[3] = 0
    train[:, groups == 1] = tests[:, groups == 1] = 0
    found = scores(train, tests, groups, DAMPING)
    assert np.isfinite(found).all() and (found[3] == 0).all() and (found[[0, 1, 2]] != 0).all()
    assert (scores(train * 0, tests * 0, groups, DAMPING) == 0).all()


def test_what_all_evaluation_examples_share_counts_little() -> None:
    """The point of the mix: a large component of every test, as a template gives, drowns what is peculiar to each."""
    random_ = np.random.default_rng(1)
    template = random_.normal(size=40)
    own = random_.normal(size=(30, 40))
    tests = own + 3 * template
    train = np.concatenate([own + 0.3 * random_.normal(size=own.shape), 0.1 * own + 3 * template])
    groups = np.zeros(40, int)

    def found(**without: bool) -> float:
        best = scores(train, tests, groups, DAMPING, **without).argmax(0)
        return float((best == np.arange(30)).mean())

    assert found() > 0.9 > 0.2 > found(hessian=False)


# ------------------------------------------------------------------------------------------------------- the mix


def second_moments_of(count: int, seed: int, scale: float) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [
        scale * trackstar.second_moments(generator.normal(size=(count, n)) ** 3, np.zeros(n, int))[0] for n in (70, 130)
    ]


def test_both_sides_have_the_same_eigenvalue_at_the_rank() -> None:
    train, tests = second_moments_of(400, 1, 1.0), second_moments_of(500, 2, 0.02)
    share = balance(train, tests)
    assert 0.9 < share < 1
    sides = [np.sort(np.concatenate([np.linalg.eigvalsh(m) for m in side]))[::-1] for side in (train, tests)]
    rank = round(1000 / 65536 * 200)
    np.testing.assert_allclose((1 - share) * sides[0][rank - 1], share * sides[1][rank - 1], rtol=1e-9)


def test_with_fewer_examples_than_dimensions_the_rank_is_of_what_there_is() -> None:
    """Else it would be among eigenvalues of rounding, and the mix no mix."""
    share = balance(second_moments_of(400, 1, 1.0), second_moments_of(9, 2, 1.0))
    assert 0.05 < share < 0.95


def test_the_mix_equals_bergsons() -> None:
    math = pytest.importorskip("bergson.utils.math")
    train, tests = second_moments_of(400, 1, 1.0), second_moments_of(500, 2, 0.3)

    def eigen(side: list[np.ndarray]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {str(i): torch.linalg.eigh(torch.from_numpy(m)) for i, m in enumerate(side)}

    expected = math.compute_lambda(eigen(tests), eigen(train), target_components=round(1000 / 65536 * 200))
    assert balance(train, tests) == pytest.approx(expected, rel=1e-9)


def test_corrected_gradients_equal_bergsons(gradients: ExampleGradients) -> None:
    """Its epsilon stands outside the root, so moments here have no zeros."""
    normalizers = pytest.importorskip("bergson.gradients")
    matrices = [block for block in gradients.blocks if block.kind == "linear"]
    generator = torch.Generator().manual_seed(1)
    moments = {b.name: torch.rand(b.shape, generator=generator) + 0.1 for b in gradients.blocks}
    captured = gradients.capture(pack_examples(TRAIN))
    divided = divisors(gradients.blocks, moments)
    for block in matrices:
        whole = captured.block(block)
        normalizer = normalizers.AdamNormalizer(moments[block.name])
        expected = torch.stack([normalizer.normalize_weight(own.clone(), 0.0) for own in whole])
        torch.testing.assert_close(whole / divided[block.name], expected)


def test_whitening_makes_second_moments_those_of_the_unit_matrix() -> None:
    random_ = np.random.default_rng(1)
    encodings = random_.normal(size=(500, 12)) @ random_.normal(size=(12, 12))
    groups = np.repeat([0, 1, 2], 4)
    whitening = trackstar.whiten(trackstar.second_moments(encodings, groups), groups, 1e-9)
    after = trackstar.second_moments(whitening.apply(encodings), groups)
    for matrix in after:
        np.testing.assert_allclose(matrix, np.eye(4), atol=1e-5)
