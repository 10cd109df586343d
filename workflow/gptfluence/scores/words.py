"""Words in the columns of scores alone, so that simulations do not depend on them as on `gptfluence.words`."""

from __future__ import annotations

CEILING = "ceiling"
"""What a simulator is called, in the column of methods, that knows all but the noise of sampled texts."""

ELSEWHERE = "elsewhere_"
"""Begins, in the column of settings, those where simulators of one scenario are judged on runs of the other."""

OWN_GRADIENTS = "own_gradients"
"""Variant of a method that is given, in place of kernels, gradients of every step of the very run that it simulates."""

OWN_LOSSES = "own_losses"
"""Variant of the mean curve, of what sampled texts are worth, that is given the losses of the very run."""

GIVEN = (OWN_GRADIENTS, OWN_LOSSES)
"""Variants that cannot be had without training the run: ceilings, and no competitors."""

OWN_STEPS = {"sgd": "tracin", "adamw": "tracin_adamw"}
"""Which replay says so, for each gradient kernel."""
