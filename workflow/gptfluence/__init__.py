"""GPTfluence: simulate how a GPT's metrics on a test example move when its training data change.

Fitted simulators answer questions: `load` or `fit` one, and ask the `WhatIf` that comes back.

The stages, in the order the data flow; each is one folder here, one rule file, one section of params.yaml:
tasks -> curricula -> dynamics -> simulators / baselines -> scores -> paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gptfluence.whatif.answers import Comparison, Influence, Interactions, Trajectories
    from gptfluence.whatif.ask import WhatIf, load
    from gptfluence.whatif.curriculum import Curriculum
    from gptfluence.whatif.files import read_curricula, write_curricula
    from gptfluence.whatif.folder import fit
    from gptfluence.whatif.record import RecordDynamics

_NAMES = {
    "load": "ask",
    "WhatIf": "ask",
    "Curriculum": "curriculum",
    "Trajectories": "answers",
    "Comparison": "answers",
    "Influence": "answers",
    "Interactions": "answers",
    "read_curricula": "files",
    "write_curricula": "files",
    "fit": "folder",
    "RecordDynamics": "record",
}

__all__ = [
    "Comparison",
    "Curriculum",
    "Influence",
    "Interactions",
    "RecordDynamics",
    "Trajectories",
    "WhatIf",
    "fit",
    "load",
    "read_curricula",
    "write_curricula",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the package itself stays as light as its commands need it."""
    if name not in _NAMES:
        raise AttributeError(f"module 'gptfluence' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"gptfluence.whatif.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_NAMES))
