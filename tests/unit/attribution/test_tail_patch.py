"""One real step on each example, against a copy of the model and torch's AdamW."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gptfluence.attribution.hooks import ExampleGradients, gradient_products
from gptfluence.attribution.replay import Rerun, Reruns
from gptfluence.attribution.tail_patch import tail_patch
from gptfluence.dynamics.examples import Encoded
from gptfluence.dynamics.packing import Stream, pack_examples, read


def rerun_of(gang: dict[str, Any], steps: int, **changes: Any) -> Rerun:
    """The gang's first run after some steps."""
    run = gang["runs"][0] | changes
    rerun = Reruns(gang | {"runs": [run]}).start(run)
    for _ in range(steps):
        rerun.update()
    return rerun


def some_of(rerun: Rerun) -> list[Encoded]:
    return [rerun.reruns.inputs.train[key] for key in [("yesno", 0), ("text", 3), ("yesno", 5)]]


def loss(model: torch.nn.Module, example: Encoded) -> torch.Tensor:
    stream = Stream.of([pack_examples([example])], torch.device("cpu"))
    return torch.nn.functional.cross_entropy(read(model, stream), stream.labels)


def test_scores_are_what_a_step_does(gang: dict[str, Any]) -> None:
    """At the run's end, where its own rate is 0, the step has the run's first rate."""
    rerun = rerun_of(gang, 6)
    model, optimizer = rerun.training.model.eval(), rerun.training.optimizer
    assert optimizer.param_groups[0]["lr"] == 0
    train = some_of(rerun)
    expected = []
    for example in train:
        own = copy.deepcopy(model)
        groups, pairs = [], dict(zip(model.parameters(), own.parameters(), strict=True))
        for group in optimizer.param_groups:
            groups.append({"params": [pairs[p] for p in group["params"]], "weight_decay": group["weight_decay"]})
        theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-6)
        for parameter, copied in pairs.items():
            theirs.state[copied] = {key: value.clone() for key, value in optimizer.state[parameter].items()}
        with torch.no_grad():
            before = [loss(own, test).item() for test in rerun.reruns.inputs.test_examples]
        own.zero_grad()
        loss(own, example).backward()
        theirs.step()
        with torch.no_grad():
            after = [loss(own, test).item() for test in rerun.reruns.inputs.test_examples]
        expected.append(np.subtract(before, after))
    found = tail_patch(rerun, train)
    assert found.shape == (3, 10) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5)
    assert np.abs(found).min(1).max() > 1e-5


def test_the_run_stands_as_before(gang: dict[str, Any]) -> None:
    rerun = rerun_of(gang, 3)
    training = rerun.training
    weights = copy.deepcopy(training.model.state_dict())
    state = copy.deepcopy(training.optimizer.state_dict())
    tail_patch(rerun, some_of(rerun))
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    found = training.optimizer.state_dict()
    assert found["param_groups"] == state["param_groups"]
    for number, own in state["state"].items():
        for key, value in own.items():
            assert torch.equal(found["state"][number][key], value), key
    assert all(p.grad is None for p in training.model.parameters())
    # And it goes on as one that has not been looked at.
    other = rerun_of(gang, 4)
    rerun.update()
    for one, two in zip(training.model.parameters(), other.training.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_example_scores_the_same_among_others(gang: dict[str, Any]) -> None:
    rerun = rerun_of(gang, 2)
    train = some_of(rerun)
    whole = tail_patch(rerun, train)
    np.testing.assert_array_equal(tail_patch(rerun, train[::-1])[::-1], whole)
    np.testing.assert_array_equal(tail_patch(rerun, train[1:2]), whole[1:2])


def test_before_the_first_step_no_state_is_left_behind(gang: dict[str, Any]) -> None:
    """AdamW makes its state in the first step, which is another example's."""
    rerun = rerun_of(gang, 0)
    train = some_of(rerun)
    whole = tail_patch(rerun, train)
    assert not any(rerun.training.optimizer.state.values())
    np.testing.assert_array_equal(tail_patch(rerun, train[::-1])[::-1], whole)


def test_small_steps_from_scratch_do_what_gradients_say(gang: dict[str, Any]) -> None:
    """AdamW's first step has the signs of the gradient, so a product of gradients says most of it."""
    rerun = rerun_of(gang, 0, learning_rate=1e-5)
    rerun.update()
    train = some_of(rerun)
    rerun.follow()
    products = gradient_products(
        ExampleGradients(rerun.follower), train, rerun.reruns.inputs.test_examples, rerun.reruns.budget
    )
    found = tail_patch(rerun, train)
    assert np.corrcoef(found.ravel(), products.ravel())[0, 1] > 0.5


def test_adapters_alone_are_stepped(gang: dict[str, Any]) -> None:
    lora = {"rank": 2, "alpha": 8, "dropout": 0.1, "targets": ["query_key_value", "dense"]}
    rerun = rerun_of(gang | {"model": gang["model"] | {"lora": lora}}, 2)
    frozen = {n: p.clone() for n, p in rerun.training.model.named_parameters() if not p.requires_grad}
    found = tail_patch(rerun, some_of(rerun))
    assert frozen and np.abs(found).max() > 0
    for name, parameter in rerun.training.model.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name])
    # Dropout is off: the same step does the same.
    np.testing.assert_array_equal(tail_patch(rerun, some_of(rerun)), found)
