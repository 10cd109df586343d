"""Examples in docstrings, and what the package's top gives away without importing it."""

from __future__ import annotations

import doctest
import subprocess
import sys

import gptfluence
import pytest
from gptfluence.errors import UserError
from gptfluence.whatif import curriculum, names
from gptfluence.whatif.curriculum import Curriculum


@pytest.mark.parametrize("module", [curriculum, names])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_names_at_the_top_are_imported_when_used() -> None:
    assert set(gptfluence.__all__) <= set(dir(gptfluence))
    assert all(getattr(gptfluence, name) for name in gptfluence.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        _ = gptfluence.lood
    script = "import sys, gptfluence; assert 'numpy' not in sys.modules; gptfluence.load; gptfluence.Curriculum\n" \
             "assert not {'torch', 'scipy', 'pandas', 'transformers'} & set(sys.modules)"  # fmt: skip
    subprocess.run([sys.executable, "-c", script], check=True)


def test_curricula_that_cannot_be_are_refused() -> None:
    plan = Curriculum.of([["a:1", "a:2"]], name="mine")
    for call, message in (
        (lambda: plan.without("a:3"), "mine: does not train on 'a:3'"),
        (lambda: plan.repeat("a:1", 2), "mine: there is no step 2; its steps are 1 to 1"),
        (lambda: plan.with_rates([0.1, 0.2]), "mine: 2 learning rates for 1 steps"),
        (lambda: plan.with_rates([-1.0]), "mine: learning rates must be finite"),
        (lambda: Curriculum.of([]), "at least one batch"),
    ):
        with pytest.raises(UserError, match=message):
            call()
