"""BLEU and ROUGE-L, by the libraries, in a process of their own: beside the next step of training, not before it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import types
from collections.abc import Iterable, Sequence

import numpy as np

Text = tuple[str, tuple[str, ...]]
"""A text and its references."""


class TextMetrics:
    """BLEU (0-100) and ROUGE-L (0-1) of a text against its references.

    BLEU is sacrebleu's sentence BLEU: 13a tokenisation, exponential smoothing, effective order; all references count.
    ROUGE-L is rouge-score's F-measure without stemming, the best over the references.
    """

    def __init__(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU

        self._bleu = BLEU(effective_order=True)
        self._rouge = RougeScorer(["rougeL"], use_stemmer=False)

    def score(self, text: str, references: Sequence[str]) -> tuple[float, float]:
        """Return BLEU and ROUGE-L of one text."""
        bleu = self._bleu.sentence_score(text, list(references)).score
        return bleu, self._rouge.score_multi(references, text)["rougeL"].fmeasure


class Scorer:
    """A process that scores texts; a context. One request may be under way, and is waited for when it is asked for.

    The process ends with the one that started it, however that ends: its input then ends.
    """

    def __enter__(self) -> Scorer:
        self._start()
        # Between two steps most samples stay the same text.
        self._known: dict[Text, tuple[float, float]] = {}
        self._asked: list[Text] = []
        self._wanted: list[Text] = []
        return self

    def _start(self) -> None:
        command = [sys.executable, "-m", "gptfluence.dynamics.text_metrics"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ask(self, texts: Iterable[Text]) -> None:
        """Have texts scored; what was asked before must have been answered.

        A process that has ended is started anew: what ended it concerned the run that had asked.

        Raises:
            RuntimeError: the process has ended meanwhile; so in `answers`.
        """
        if self._process.poll() is not None:
            self._end()
            self._start()
            self._asked, self._wanted = [], []
        assert not self._asked and self._process.stdin
        asked = list(texts)
        wanted = [text for text in dict.fromkeys(asked) if text not in self._known]
        if wanted:
            try:
                self._process.stdin.write(json.dumps(wanted) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise _ended() from None
        self._asked, self._wanted = asked, wanted

    def answers(self) -> np.ndarray:
        """Return BLEU and ROUGE-L of the texts last asked about, [2, texts]."""
        assert self._process.stdout
        asked, wanted = self._asked, self._wanted
        if wanted:
            line = self._process.stdout.readline()
            if not line.endswith("\n"):
                raise _ended()
            self._known |= zip(wanted, map(tuple, json.loads(line)), strict=True)
        self._asked, self._wanted = [], []
        self._known = {text: self._known[text] for text in asked}
        return np.array([self._known[text] for text in asked], np.float64).reshape(-1, 2).T


def _ended() -> RuntimeError:
    return RuntimeError(
        "the process that computes BLEU and ROUGE-L has ended; what it wrote stands in the job's output"
    )


def _leave_out_nltk() -> None:
    """Keep rouge-score from importing nltk, which takes a second: it is for stemming and sentences, unused here."""
    for name in ("nltk", "nltk.stem", "nltk.stem.porter"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["nltk.stem"].porter = sys.modules["nltk.stem.porter"]  # type: ignore[attr-defined]


def main() -> None:
    """Score what is asked, a line of JSON each, until the input ends."""
    # SLURM sends signals to every process of a job: the one that trains decides, and still needs the last answer.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _leave_out_nltk()
    metrics = TextMetrics()
    for line in sys.stdin:
        print(json.dumps([metrics.score(text, references) for text, references in json.loads(line)]), flush=True)


if __name__ == "__main__":
    main()
