from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import gpts
import numpy as np
import pytest
import torch
from gptfluence.dynamics.cuts import Budget
from gptfluence.dynamics.gangs import Gang
from gptfluence.dynamics.generate import Sampling, Texts, choose_tokens, generate, sampling_numbers
from gptfluence.dynamics.packing import NAME, Reader, Stream
from gptfluence.errors import UserError
from transformers import PreTrainedModel

CPU = torch.device("cpu")
VOCABULARY, END = 31, 0  # small: texts end in the middle often enough
SAMPLING = Sampling(temperature=0.8, top_p=0.95, end=END)
BUDGET = Budget.of(10_000, VOCABULARY)
tiny = functools.partial(gpts.tiny, vocabulary=VOCABULARY)


KINDS = pytest.mark.parametrize("kind", ["neox", "llama", "gpt2"])


# -------------------------------------------------------------------------------------------------- choosing tokens


def test_sampled_frequencies_are_the_nucleus_probabilities() -> None:
    logits = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    drawn = choose_tokens(logits.expand(20_000, -1), uniform, temperature=1.0, top_p=0.9)
    # The smallest set that reaches 0.9 is {1, 3, 2} with 0.95.
    expected = np.array([0.0, 0.5, 0.15, 0.3]) / 0.95
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20_000, expected, atol=1e-3)


def test_low_temperature_and_small_nucleus_give_the_likeliest_token() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert choose_tokens(logits, torch.tensor([0.999]), temperature=0.01, top_p=0.95).item() == 1
    assert choose_tokens(logits, torch.tensor([0.999]), temperature=1.0, top_p=0.1).item() == 1


def test_nucleus_wider_than_the_likeliest_few() -> None:
    """A flat distribution over 1000 tokens: half of the probability is half of the tokens."""
    drawn = choose_tokens(torch.zeros(500, 1000), (torch.arange(500) + 0.5) / 500, temperature=1.0, top_p=0.5)
    assert len(set(drawn.tolist())) == 500


def sort_and_choose(logits: np.ndarray, uniform: np.ndarray, temperature: float, top_p: float) -> tuple[list[int], int]:
    """The definition, row by row, over all tokens in order; also how often the likeliest token alone reached top_p."""
    chosen, by_one = [], 0
    for row, number in zip(logits.astype(np.float64), uniform, strict=True):
        order = np.argsort(-row, kind="stable")
        weight = np.exp((row[order] - row.max()) / temperature)
        probability = weight / weight.sum()
        size = 1
        while size < len(order) and probability[:size].sum() < top_p:
            size += 1
        nucleus = probability[:size].cumsum()
        chosen.append(int(order[np.searchsorted(nucleus, number * nucleus[-1], side="right")]))
        by_one += size == 1
    return chosen, by_one


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 3.0])
def test_choice_equals_the_definition(temperature: float, top_p: float) -> None:
    """Over sharp and flat distributions, so that some rows are decided by one token, some by few, some by many."""
    generator = np.random.default_rng(1)
    scale = 40 * generator.random((600, 1)) ** 3
    logits = (generator.normal(size=(600, 300)) * scale).astype(np.float32)
    uniform = generator.random(600)
    expected, by_one = sort_and_choose(logits, uniform, temperature, top_p)
    found = choose_tokens(torch.from_numpy(logits), torch.from_numpy(uniform), temperature, top_p)
    assert found.tolist() == expected
    assert 10 < by_one < 590 or top_p in (0.05, 1.0)
    assert len(set(expected)) > 100


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9, 1.0])
def test_tokens_that_are_equally_likely(top_p: float) -> None:
    """Which of them it is, is open; how likely it is, is not."""
    generator = np.random.default_rng(2)
    logits = generator.integers(0, 4, size=(500, 200)).astype(np.float32) * generator.choice([0.5, 3, 20], (500, 1))
    logits = logits.astype(np.float32)
    uniform = generator.random(500)
    expected, _ = sort_and_choose(logits, uniform, 1.0, top_p)
    found = choose_tokens(torch.from_numpy(logits), torch.from_numpy(uniform), 1.0, top_p)
    np.testing.assert_array_equal(logits[np.arange(500), found], logits[np.arange(500), expected])
    # All of them can be drawn, not only the first.
    two = torch.tensor([[1.0, 5.0, 5.0, 1.0]]).expand(100, -1)
    assert set(choose_tokens(two, (torch.arange(100) + 0.5) / 100, 1.0, 0.9).tolist()) == {1, 2}


def test_logits_are_left_as_they_are() -> None:
    logits = torch.randn(20, 100, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    choose_tokens(logits, torch.linspace(0, 0.99, 20), temperature=0.7, top_p=0.9)
    assert torch.equal(logits, before)


def test_run_whose_weights_are_no_numbers_any_more_still_gets_tokens() -> None:
    logits = torch.full((3, 100), torch.nan)
    logits[1, :50] = torch.inf
    logits[2] = -torch.inf
    drawn = choose_tokens(logits, torch.tensor([0.0, 0.5, 0.999]), temperature=0.2, top_p=0.95)
    assert ((drawn >= 0) & (drawn < 100)).all()


def test_random_numbers_depend_on_seed_task_step_and_example_alone() -> None:
    numbers = sampling_numbers(1, "rte", 5, 7, 10)
    np.testing.assert_array_equal(sampling_numbers(1, "rte", 5, 7, 4), numbers[:4])
    for other in ((2, "rte", 5, 7), (1, "rte", 6, 7), (1, "sst2", 5, 7), (1, "rte", 5, 8)):
        assert (sampling_numbers(*other, 10) != numbers).all()


# -------------------------------------------------------------------------------------------------------- sampling


class Counted:
    """Reads for a gang; keeps how many tokens each call was given."""

    def __init__(self, *models: PreTrainedModel) -> None:
        self._gang = Gang(models)
        self.sizes: list[int] = []

    def __call__(self, members: Sequence[int]) -> Reader:
        reader = self._gang.reader(members)

        def read(stream: Stream) -> torch.Tensor:
            self.sizes.append(stream.tokens.shape[1])
            return reader(stream)

        return read


@torch.no_grad()
def token_by_token(model: PreTrainedModel, texts: Texts, sampling: Sampling = SAMPLING) -> list[list[int]]:
    """Without batch and cache, and with the library's own attention."""
    model.set_attn_implementation("eager")
    rows = []
    for prompt, numbers, limit in zip(texts.prompts, texts.uniform, texts.limits, strict=True):
        sampled: list[int] = []
        while len(sampled) < limit and END not in sampled:
            logits = model(input_ids=torch.tensor([[*prompt, *sampled]])).logits[:, -1]
            number = torch.tensor([numbers[len(sampled)]])
            sampled += choose_tokens(logits, number, sampling.temperature, sampling.top_p).tolist()
        rows.append(sampled)
    model.set_attn_implementation(NAME)
    return rows


def some_texts(generator: np.random.Generator, count: int, most: int = 12) -> Texts:
    limits = generator.integers(1, most + 1, size=count).tolist()
    return Texts(
        prompts=[generator.integers(1, VOCABULARY, size=generator.integers(1, 40)).tolist() for _ in range(count)],
        uniform=generator.random((count, max(limits))),
        limits=limits,
    )


def sample(
    model: PreTrainedModel, texts: Texts, sampling: Sampling = SAMPLING, budget: Budget = BUDGET
) -> list[list[int]]:
    (rows,) = generate(Gang([model]).reader, [texts], sampling, budget, CPU)
    return rows


@KINDS
def test_sample_is_that_of_each_text_token_by_token(kind: str) -> None:
    """However many there are, and however much is read in one go."""
    generator = np.random.default_rng(1)
    model = tiny(kind)
    ended = 0
    for _ in range(12):
        texts = some_texts(generator, int(generator.integers(1, 12)))
        sampling = dataclasses.replace(SAMPLING, temperature=float(generator.choice([0.3, 0.8, 2.0])))
        expected = token_by_token(model, texts, sampling)
        ended += sum(row[-1] == END for row in expected)
        for tokens in (1, 60, 10_000):
            assert sample(model, texts, sampling, Budget.of(tokens, VOCABULARY)) == expected
    assert ended > 5


def test_texts_of_like_lengths_and_one_text_alone() -> None:
    """Where all texts have read equally much, no mask is needed."""
    generator = np.random.default_rng(2)
    model = tiny("llama")
    for count in (1, 5):
        texts = some_texts(generator, count)
        same = dataclasses.replace(texts, prompts=generator.integers(1, VOCABULARY, size=(count, 7)).tolist())
        assert sample(model, same) == token_by_token(model, same)


@KINDS
def test_runs_together_are_each_alone(kind: str) -> None:
    """The texts are the same; the weights and the random numbers are not."""
    generator = np.random.default_rng(3)
    models = [tiny(kind, seed) for seed in range(3)]
    gang = Gang(models)
    for tokens in (10, 100, 10_000):
        budget = Budget.of(tokens, VOCABULARY)
        shared = some_texts(generator, 9)
        runs = [dataclasses.replace(shared, uniform=generator.random(shared.uniform.shape)) for _ in models]
        alone = [sample(model, texts, budget=budget) for model, texts in zip(models, runs, strict=True)]
        assert alone[0] != alone[1]
        for members in ([0, 1, 2], [2, 0], [1]):
            reader = functools.partial(readers_of, gang, members)
            assert generate(reader, [runs[i] for i in members], SAMPLING, budget, CPU) == [alone[i] for i in members]


def readers_of(gang: Gang, members: list[int], numbers: Sequence[int]) -> Reader:
    return gang.reader([members[i] for i in numbers])


def test_runs_of_different_texts() -> None:
    generator = np.random.default_rng(4)
    models = [tiny("llama", seed) for seed in range(3)]
    for tokens in (1, 50, 10_000):
        budget = Budget.of(tokens, VOCABULARY)
        runs = [some_texts(generator, count) for count in (1, 9, 4)]
        alone = [sample(model, texts, budget=budget) for model, texts in zip(models, runs, strict=True)]
        assert generate(Gang(models).reader, runs, SAMPLING, budget, CPU) == alone


def test_model_is_called_as_often_as_the_longest_text_has_tokens() -> None:
    generator = np.random.default_rng(5)
    for kind in ("neox", "llama"):
        model = tiny(kind)
        for _ in range(5):
            texts = some_texts(generator, 9)
            reader = Counted(model)
            (sampled,) = generate(reader, [texts], SAMPLING, BUDGET, CPU)
            assert len(reader.sizes) == max(map(len, sampled))
            assert reader.sizes[0] == sum(map(len, texts.prompts))


def test_prompts_are_read_within_the_budget() -> None:
    """Of one run, and of several; a prompt that is beyond it is read by itself."""
    generator = np.random.default_rng(6)
    models = [tiny("neox", seed) for seed in range(3)]
    texts = some_texts(generator, 20)
    one = dataclasses.replace(texts, limits=[1] * 20)
    longest = max(map(len, texts.prompts))
    for budget in (longest - 1, 60, 200):
        for runs in (1, 3):
            reader = Counted(*models[:runs])
            generate(reader, [one] * runs, SAMPLING, Budget.of(budget, VOCABULARY), CPU)
            assert sum(reader.sizes) == runs * sum(map(len, texts.prompts))
            assert all(size <= budget or size == longest for size in reader.sizes)
            assert len(reader.sizes) < 20 * runs


def test_texts_that_have_ended_are_let_go() -> None:
    """At no reading is an eighth of the texts, or more, read in vain."""
    generator = np.random.default_rng(7)
    reader = Counted(tiny("neox"))
    texts = some_texts(generator, 40, most=30)
    (sampled,) = generate(reader, [texts], SAMPLING, BUDGET, CPU)
    read_in_vain = 0
    for step, size in enumerate(reader.sizes[1:], 1):
        going_on = sum(len(row) > step for row in sampled)
        assert 0 < going_on <= size and (size - going_on) * 8 < size
        read_in_vain += size - going_on
    assert reader.sizes[1:] == sorted(reader.sizes[1:], reverse=True)
    assert read_in_vain > 0  # to let each go at once would cost a copy each


def test_run_that_is_done_is_not_read_for_the_others() -> None:
    generator = np.random.default_rng(8)
    models = [tiny("neox", seed) for seed in range(2)]
    short, long = some_texts(generator, 20, most=3), some_texts(generator, 20, most=12)
    together, alone = Counted(*models), Counted(models[1])
    generate(alone, [long], SAMPLING, BUDGET, CPU)
    generate(together, [short, long], SAMPLING, BUDGET, CPU)
    assert len(together.sizes) == len(alone.sizes)
    assert together.sizes[3:] == alone.sizes[3:]


def test_window_is_allowed_only_where_it_hides_nothing() -> None:
    """The last token sampled is not read: of 10 and 7 tokens, 16 are."""
    model = tiny("mistral", sliding_window=16)
    prompt = list(range(1, 11))
    for limit in (7, 8):
        texts = Texts([prompt], np.full((1, limit), 0.5), [limit])
        sampling = dataclasses.replace(SAMPLING, end=VOCABULARY)
        if limit == 7:
            assert len(sample(model, texts, sampling)[0]) == 7
        else:
            with pytest.raises(UserError, match="reaches back 16 tokens only"):
                sample(model, texts, sampling)


@KINDS
def test_generation_ends_at_the_end_of_text_or_the_limit(kind: str) -> None:
    model = tiny(kind)

    def sample_one(limit: int, end: int) -> list[int]:
        texts = Texts([[5, 9]], np.random.default_rng(9).random((1, 8))[:, :limit], [limit])
        return sample(model, texts, dataclasses.replace(SAMPLING, end=end))[0]

    whole = sample_one(8, VOCABULARY)
    assert len(whole) == 8
    for limit in range(1, 8):
        assert sample_one(limit, VOCABULARY) == whole[:limit]
    for token in whole:
        assert sample_one(8, token) == whole[: whole.index(token) + 1]
