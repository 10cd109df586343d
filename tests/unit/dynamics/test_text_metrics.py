from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from gptfluence.dynamics.text_metrics import Scorer, Text, TextMetrics
from rouge_score import rouge_scorer

REFERENCES = ("The mayor sells old blue boats.", "Blue boats are sold by the mayor.")
HOSTILE = [
    "",
    " ",
    "\n",
    "blue\nboats\r\n\n",
    "blue\u2028boats\u2029\x85\x0b\x0c\x1c",
    "\0 boats \x1b[31m",
    "\"blue\" 'boats' \\ \\n \\u0041 [[[{}]]]",
    "🛶🏽 Köln große \u202eboats",
    "\ud800 boats",  # no half of a pair is lost either
    "NaN null 1e999",
    "boats " * 3000,
]


def by_the_libraries(texts: list[Text]) -> np.ndarray:
    rouge = rouge_scorer.RougeScorer(["rougeL"])
    scores = [
        (
            sacrebleu.sentence_bleu(text, list(references), use_effective_order=True).score,
            max(rouge.score(reference, text)["rougeL"].fmeasure for reference in references),
        )
        for text, references in texts
    ]
    return np.array(scores).reshape(-1, 2).T


@pytest.mark.parametrize("text", ["The mayor sells blue boats.", "blue boats", "", "ganz anders"])
def test_text_metrics_are_the_libraries_own(text: str) -> None:
    bleu, rouge = TextMetrics().score(text, REFERENCES)
    assert [[bleu], [rouge]] == by_the_libraries([(text, REFERENCES)]).tolist()


# --------------------------------------------------------------------------------------------------- the process


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer() as scorer:
        yield scorer


def scores(scorer: Scorer, texts: list[Text]) -> np.ndarray:
    scorer.ask(texts)
    return scorer.answers()


def test_answers_are_the_libraries_own(scorer: Scorer) -> None:
    generator = np.random.default_rng(1)
    words = ["the", "mayor", "sells", "old", "blue", "boats", "bread", "."]

    def text() -> str:
        return " ".join(generator.choice(words, size=generator.integers(1, 12)))

    for count in (1, 40, 7):
        texts = [(text(), tuple(text() for _ in range(generator.integers(1, 4)))) for _ in range(count)]
        found = scores(scorer, texts)
        assert found.dtype == np.float64 and found.shape == (2, count)
        np.testing.assert_array_equal(found, by_the_libraries(texts))


def test_the_same_text_again_and_again(scorer: Scorer) -> None:
    """In one request, in a later one, and with other references, where its scores are others."""
    texts = [("blue boats", REFERENCES), ("bread", REFERENCES), ("blue boats", ("blue boats",))]
    expected = by_the_libraries(texts)
    assert len(np.unique(expected, axis=1).T) == 3
    for order in ([0, 1, 2], [0, 0, 1, 2, 1, 0], [2], [1, 2, 2]):
        np.testing.assert_array_equal(scores(scorer, [texts[i] for i in order]), expected[:, order])


def test_hostile_texts(scorer: Scorer) -> None:
    texts = [(text, (reference, "blue boats")) for text in HOSTILE for reference in HOSTILE]
    np.testing.assert_array_equal(scores(scorer, texts), by_the_libraries(texts))


def test_nothing_is_asked(scorer: Scorer) -> None:
    assert scores(scorer, []).shape == (2, 0)


def test_request_larger_than_a_pipe(scorer: Scorer) -> None:
    """Neither process waits for the other to read."""
    texts = [(f"blue boats {i} " * 20, (f"blue boats {i}",)) for i in range(2000)]
    found = scores(scorer, texts)
    np.testing.assert_array_equal(found[:, ::100], by_the_libraries(texts[::100]))


# ------------------------------------------------------------------------------------------------------- its end


def is_alive(number: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_the_end(number: int) -> None:
    until = time.monotonic() + 20
    while is_alive(number):
        assert time.monotonic() < until, f"process {number} goes on"
        time.sleep(0.02)


def test_scorer_ends_with_its_context() -> None:
    with Scorer() as scorer:
        assert is_alive(scorer._process.pid)
        scorer.ask([(f"blue boats {i}", REFERENCES) for i in range(10_000)])  # nobody waits for the answer
    assert scorer._process.returncode == -signal.SIGKILL and not is_alive(scorer._process.pid)
    with pytest.raises(ZeroDivisionError), Scorer() as scorer:
        raise ZeroDivisionError
    assert not is_alive(scorer._process.pid)


PARENT = """
import sys
from gptfluence.dynamics.text_metrics import Scorer
if {stays}:
    import signal
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # which no other process inherits
with Scorer() as scorer:
    if {warm}:
        scorer.ask([("blue boats", ("blue boats",))])
        scorer.answers()
    print(scorer._process.pid, flush=True)
    for line in sys.stdin:
        scorer.ask([(line.strip(), ("blue boats",))])
        print(*scorer.answers()[:, 0], flush=True)
"""


@contextmanager
def parent(warm: bool, stays: bool = False) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a process that has a scorer, in a group of their own; yield it and the scorer's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(warm=warm, stays=stays)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("warm", [True, False], ids=["idle", "starting"])
def test_scorer_ends_when_what_started_it_is_killed(warm: bool) -> None:
    with parent(warm) as (process, scorer):
        assert is_alive(scorer)
        process.kill()
        wait_for_the_end(scorer)


def test_signals_to_the_group_do_not_end_it() -> None:
    """The one that trains still needs the last answer."""
    with parent(warm=True, stays=True) as (process, scorer):
        assert process.stdin and process.stdout
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.killpg(process.pid, number)
            process.stdin.write(f"blue boats and {number}\n")
            process.stdin.flush()
            bleu, rouge = map(float, process.stdout.readline().split())
            assert 0 < bleu < 100 and 0 < rouge < 1
        assert is_alive(scorer)
        process.stdin.close()
        assert process.wait(20) == 0
        assert not is_alive(scorer)


def kill(scorer: Scorer) -> None:
    scorer._process.kill()
    scorer._process.wait()


def test_killed_scorer_is_named_when_it_should_answer() -> None:
    with pytest.raises(RuntimeError, match="the process that computes BLEU and ROUGE-L has ended"), Scorer() as scorer:
        scorer.ask([("blue boats", REFERENCES)])
        kill(scorer)
        scorer.answers()


def test_what_is_known_needs_no_process() -> None:
    texts = [("blue boats", REFERENCES), ("old boats", REFERENCES)]
    with Scorer() as scorer:
        known = scores(scorer, texts)
        kill(scorer)
        np.testing.assert_array_equal(scores(scorer, texts[::-1]), known[:, ::-1])


def test_scorer_killed_in_the_middle_of_its_answer_is_named() -> None:
    with pytest.raises(RuntimeError, match="the process that computes BLEU and ROUGE-L has ended"), Scorer() as scorer:
        assert scorer._process.stdout
        scorer.ask([(f"boats {i}", REFERENCES) for i in range(4000)])
        # The answer is longer than a pipe is wide: it waits to be read.
        written = array("i", [0])
        while written[0] < 1 << 16:
            time.sleep(0.02)
            fcntl.ioctl(scorer._process.stdout, termios.FIONREAD, written)
        kill(scorer)
        scorer.answers()


def test_killed_scorer_is_named_until_somebody_asks_anew() -> None:
    """What ended it concerned the run that had asked: the next one gets a process of its own, and right answers."""
    with Scorer() as scorer:
        scorer.ask([("blue boats", REFERENCES)])
        kill(scorer)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="has ended"):
                scorer.answers()
        texts = [("old boats", REFERENCES), ("blue boats", REFERENCES)]
        for _ in range(2):
            np.testing.assert_array_equal(scores(scorer, texts), by_the_libraries(texts))
            kill(scorer)
