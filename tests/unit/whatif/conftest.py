from __future__ import annotations

from collections.abc import Callable

import pytest
from gptfluence.whatif.ask import WhatIf, load
from whatif_parts import save_planted


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], WhatIf]:
    """Return simulators of planted runs by method: 24 training examples of task a, 4 tests of a and 3 of b."""
    folder, known = tmp_path_factory.mktemp("simulators"), {}

    def make(method: str) -> WhatIf:
        if method not in known:
            path = folder / f"{method}.safetensors"
            save_planted(method, path)
            known[method] = load(path)
        return known[method]

    return make
