"""Words in the columns of scores alone, so that simulations do not depend on them as on `gptfluence.words`."""

from __future__ import annotations

CEILING = "ceiling"
"""What a simulator is called, in the column of methods, that knows all but the noise of sampled texts."""

ELSEWHERE = "elsewhere_"
"""Begins, in the column of settings, those where simulators of one scenario are judged on runs of the other."""

OWN_GRADIENTS = "own_gradients"
"""Variant of a method that is given, in place of kernels, gradients of every step of the very run that it simulates."""

OWN_STEPS = {"sgd": "tracin", "adamw": "tracin_adamw"}
"""Which replay says so, for each gradient kernel."""
