from __future__ import annotations

import numpy as np
from gptfluence.dynamics import cuts
from gptfluence.dynamics.cuts import Budget, bucket_length, cut_by_length, cut_texts, held_tokens, text_limit


def test_cut_by_length_at_any_lengths() -> None:
    """Each sequence once, the short ones first, within the budget; no group could have taken the next one in."""
    generator = np.random.default_rng(1)
    groups_seen = oversize_seen = by_logits = 0
    logits_per_token = cuts._LOGITS_PER_TOKEN
    for _ in range(300):
        count = int(generator.integers(1, 60))
        lengths = generator.integers(1, generator.integers(2, 200), size=count).tolist()
        kept = [int(generator.integers(1, n + 1)) for n in lengths]
        budget, vocabulary = int(generator.integers(1, 400)), int(logits_per_token * generator.uniform(0, 30)) + 1

        def fits(group: list[int]) -> tuple[bool, bool]:
            logits = sum(kept[i] for i in group) * vocabulary  # noqa: B023
            return sum(lengths[i] for i in group) <= budget, logits <= budget * logits_per_token  # noqa: B023

        groups = cut_by_length(list(zip(lengths, kept, strict=True)), Budget.of(budget, vocabulary))
        order = [i for group in groups for i in group]
        assert sorted(order) == list(range(count))
        assert [lengths[i] for i in order] == sorted(lengths)
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            assert all(fits(group)) or len(group) == 1
            if following:
                assert not all(fits([*group, following[0]]))
                by_logits += fits([*group, following[0]])[0]
            oversize_seen += not all(fits(group))
        groups_seen += len(groups)
    assert groups_seen > 1000 and oversize_seen > 100 and by_logits > 100


def test_nothing_is_cut_into_nothing() -> None:
    assert cut_by_length([], Budget.of(10, 100)) == [] and cut_texts([], 10) == []


def test_texts_of_any_lengths() -> None:
    """Each text once, prompts of like lengths together, within the budget; none could have taken the next one in."""
    generator = np.random.default_rng(1)
    batches_seen = oversize_seen = 0
    for _ in range(200):
        sizes = [(int(p), int(m)) for p, m in generator.integers(1, 60, size=(generator.integers(1, 40), 2))]
        budget = int(generator.integers(1, 1000))

        def held(batch: list[int]) -> int:
            return len(batch) * (max(sizes[i][0] for i in batch) + max(sizes[i][1] for i in batch))  # noqa: B023

        batches = cut_texts(sizes, budget)
        order = [i for batch in batches for i in batch]
        assert sorted(order) == list(range(len(sizes)))
        assert [sizes[i][0] for i in order] == sorted(prompt for prompt, _ in sizes)
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            assert held_tokens([sizes[i] for i in batch]) == held(batch)
            assert held(batch) <= budget or len(batch) == 1
            assert following is None or held([*batch, following[0]]) > budget
            oversize_seen += held(batch) > budget
        batches_seen += len(batches)
    assert batches_seen > 1000 and oversize_seen > 100


def test_limit_of_a_text_is_the_least_of_three() -> None:
    assert text_limit(40, 128, 512) == 48
    assert text_limit(40.2, 128, 512) == 49
    assert text_limit(40, 30, 512) == 30
    assert text_limit(40, 128, 60) == 30


def test_bucket_is_at_most_an_eighth_or_15_tokens_longer() -> None:
    lengths = range(1, 10_000)
    buckets = [bucket_length(n) for n in lengths]
    assert buckets == sorted(buckets)
    assert all(n <= bucket <= max(n + 15, n * 9 / 8) for n, bucket in zip(lengths, buckets, strict=True))
    # Few lengths are told apart, so that most sequences share their bucket with others.
    assert len(set(buckets)) < 80
