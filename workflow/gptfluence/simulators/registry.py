"""All methods by kind. Importing them is cheap: torch is imported only where an MLP is trained."""

from __future__ import annotations

from functools import partial
from typing import Any

from gptfluence.baselines.trivial import GlobalAr1, MeanCurve, Persistence
from gptfluence.errors import UserError, did_you_mean
from gptfluence.simulators.additive import Additive
from gptfluence.simulators.base import Array, Simulator
from gptfluence.simulators.bilinear import Bilinear
from gptfluence.simulators.each_task import EachTask
from gptfluence.simulators.gradient_response import GradientResponse
from gptfluence.simulators.interval import Interval
from gptfluence.simulators.mlp import Mlp
from gptfluence.simulators.pooled import Pooled, PooledResponse, TimeCurve
from gptfluence.simulators.predicted_curve import PredictedCurve
from gptfluence.simulators.simfluence import Simfluence
from gptfluence.words import TIME_CURVE

METHODS: dict[str, type[Simulator]] = {
    method.kind: method
    for method in (
        Simfluence,
        Bilinear,
        Mlp,
        Additive,
        GradientResponse,
        PredictedCurve,
        PooledResponse,
        Interval,
        EachTask,
        Persistence,
        GlobalAr1,
        MeanCurve,
    )
}
"""Kind, as it stands in a saved simulator, to class."""


def make_method(name: str, settings: dict[str, Any]) -> Simulator:
    """Return an unfitted simulator.

    Args:
        name: what params.yaml calls the method; for messages.
        settings: `kind` (and for gptfluence `head`), beside what the class' constructor takes; and interval and between
            (see `interval`), tasks (each: one simulator for each test task; together: one for all).

    Raises:
        UserError: there is no such kind, or its settings do not fit.
    """
    rest = dict(settings)
    kind = rest.pop("kind", "")
    if "head" in rest:
        kind = f"{kind}_{rest.pop('head')}"
    interval, between = rest.pop("interval", 1), rest.pop("between", "jump")
    each = rest.pop("tasks", "together") == "each"
    try:
        make = partial(find_method(kind), **rest)
        if interval > 1:
            make = partial(Interval, make, interval, between)
        return EachTask(make) if each else make()
    except TypeError as error:
        raise UserError(f"method '{name}': {error}") from None
    except UserError as error:
        raise UserError(f"method '{name}': {error}") from None


def make_pooled(name: str, settings: dict[str, Any], rates: Array) -> Pooled:
    """Return an unfitted simulator of the runs of several schedules.

    Args:
        name, settings: as for `make_method`; kind time_curve, gradient_response, or gptfluence with head bilinear.
        rates: [steps], the learning rates of the run along which gradient kernels were measured.

    Raises:
        UserError: its settings do not fit, or it is not fitted on several schedules.
    """
    if settings["kind"] == TIME_CURVE:
        return TimeCurve()
    if settings["kind"] == GradientResponse.kind:
        return PooledResponse(**{key: value for key, value in settings.items() if key != "kind"}, rates=rates)
    simulator = make_method(name, settings)
    if isinstance(simulator, Bilinear):
        return simulator
    raise UserError(f"method '{name}': cannot be fitted on several schedules at once")


def find_method(kind: str) -> type[Simulator]:
    """Return the class of a kind.

    Raises:
        UserError: there is none.
    """
    if kind not in METHODS:
        raise UserError(f"no simulator of kind '{kind}'{did_you_mean(kind, METHODS)}; there are {', '.join(METHODS)}")
    return METHODS[kind]
