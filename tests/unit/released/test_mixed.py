from __future__ import annotations

import random

from gptfluence.released.mixed import Stretch, Text, find_stretches, place

WORDS = [f"word{i}" for i in range(500)]


def texts(count: int, seed: int) -> dict[int, Text]:
    """Make texts up that have nothing in common."""
    generator = random.Random(seed)
    return {i: (" ".join(generator.sample(WORDS, 8)) + "\nAnswer:", "True") for i in range(count)}


def mix(*parts: dict[int, Text]) -> dict[int, Text]:
    rows = (text for part in parts for text in part.values())
    return {i: (f"Read.\n\n{prompt.splitlines()[0]} Is it so?", target) for i, (prompt, target) in enumerate(rows)}


def part(whole: dict[int, Text], first: int, last: int) -> dict[int, Text]:
    return {i: whole[i] for i in range(first, last + 1)}


def test_examples_are_found_wherever_the_mixture_has_them() -> None:
    a, b = texts(40, 1), texts(40, 2)
    mixture = mix(part(b, 0, 19), part(a, 0, 19), part(a, 20, 39), part(b, 20, 39))
    assert find_stretches(a, mixture) == [Stretch(0, 39, 20)]
    assert find_stretches(b, mixture) == [Stretch(0, 19, 0), Stretch(20, 39, 60)]


def test_examples_of_which_the_mixture_has_a_part() -> None:
    a, b = texts(40, 1), texts(40, 2)
    assert find_stretches(a, mix(b, part(a, 10, 29))) == [Stretch(10, 29, 40)]
    assert find_stretches(a, mix(b)) == [] and find_stretches(a, {}) == [] and find_stretches({}, mix(b)) == []


def test_an_example_in_other_words_is_taken_to_be_between_its_neighbours() -> None:
    a = texts(40, 1)
    mixture = mix(texts(20, 2), a)
    for example in (3, 17, 18):
        mixture[20 + example] = ("nothing like it", "True")
    assert find_stretches(a, mixture) == [Stretch(0, 39, 20)]


def test_examples_that_share_a_text_do_not_mislead() -> None:
    a = texts(40, 1)
    a[7], a[31] = a[5], a[2]
    assert find_stretches(a, mix(texts(20, 2), a)) == [Stretch(0, 39, 20)]


def test_examples_are_told_by_long_targets_too_and_by_short_texts_not_at_all() -> None:
    a = {i: ("Text:", f"a sentence about {text[0]}") for i, text in texts(20, 1).items()}
    assert find_stretches(a, {5 + i: ("Tell of it.", target) for i, (_, target) in a.items()}) == [Stretch(0, 19, 5)]
    short = dict.fromkeys(range(20), ("Text:", "yes"))
    assert find_stretches(short, short) == []


def test_a_line_of_all_prompts_tells_nothing() -> None:
    a = {i: (f"Translate this sentence from German to English, please:\nIch {i}.\n", "I am") for i in range(40)}
    assert find_stretches(a, dict(a)) == []


def test_no_two_stretches_are_the_same_examples_of_the_mixture() -> None:
    a = texts(40, 1)
    twice = a | {40 + i: text for i, text in a.items()}
    assert find_stretches(twice, mix(a)) == [Stretch(0, 39, 0)]


def test_too_few_that_agree_are_no_stretch() -> None:
    a = texts(40, 1)
    mixture = mix(a)
    for example in range(10, 20):
        mixture[example] = ("nothing like it", "True")
    assert find_stretches(a, mixture) == []


def test_the_place_of_a_pool() -> None:
    stretches = [Stretch(0, 19, 0), Stretch(20, 39, 60)]
    assert (place(0, 20, stretches), place(20, 20, stretches), place(25, 10, stretches)) == (0, 60, 65)
    assert place(10, 20, stretches) is None and place(20, 21, stretches) is None and place(0, 1, []) is None
