"""The whole job on the small model, against a plain loop that keeps the weights of every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from gptfluence.attribution import gradient_kernels
from gptfluence.attribution.gradient_kernels import measure_kernels
from gptfluence.attribution.kernel_file import KernelFile, read_kernel_file, write_kernel_file
from gptfluence.errors import UserError
from gptfluence.io import write_parquet
from unit.attribution.test_replay import LORA, Plain
from unit.attribution.test_tables import TASKS, TESTS, TRAIN, near

OUTPUT = Path("results/attribution/kernels/group.safetensors")


def job(gang: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The spec of the kernels of the gang's first run."""
    machine = ("memory_gb", "checkpoint_minutes")
    return {key: value for key, value in gang.items() if key not in machine} | {
        "runs": gang["runs"][:1],
        "group": "group",
        "train_tasks": list(TASKS),
        "train_size": 24,
        "test_tasks": list(TASKS),
        "test_sizes": dict.fromkeys(TASKS, 5),
        "checkpoints": 3,
        "parameters": "all",
        "code": "",
        **changes,
    }


@pytest.mark.parametrize(("checkpoints", "starts"), [(3, [0, 2, 4]), ([0, 1, 3], [0, 1, 3])])
def test_kernels_equal_those_of_a_plain_loop(
    gang: dict[str, Any], model_folder: Path, checkpoints: int | list[int], starts: list[int]
) -> None:
    measure_kernels(job(gang, checkpoints=checkpoints), OUTPUT)
    found, provenance = read_kernel_file(OUTPUT)
    run = gang["runs"][0]
    assert provenance["runs"] == [{"run_id": run["run_id"], "hash": run["hash"]}]
    np.testing.assert_array_equal(found.steps, starts)
    plain = Plain(gang, run, model_folder)
    with torch.no_grad():
        np.testing.assert_array_equal(found.tokens, [len(plain._losses(key)) for key in TRAIN])
    shares = torch.tensor(found.tokens / found.tokens.sum())
    batch, squares = run["batch"], []
    for number, (step, end) in enumerate(zip(starts, [*starts[1:], run["steps"]], strict=True)):
        train, tests = (plain.gradients(keys, plain.weights[step]) for keys in (TRAIN, TESTS))
        near(found.kernels["sgd"][number], (train @ tests.T).numpy())
        mean, square = shares @ train, shares @ train**2
        squares += (end - step) * [square / batch + (1 - 1 / batch) * mean**2]
        # The history of the steps before, and the square of the step that is next.
        past = squares[: step + 1]
        weights = [0.999 ** (step - s) for s in range(step + 1)]
        moment = sum(w * v for w, v in zip(weights, past, strict=True)) / sum(weights)
        near(found.kernels["adamw"][number], ((train / (moment.sqrt() + 1e-6)) @ tests.T).numpy())


def test_the_expected_square_is_that_of_random_batches() -> None:
    """Of equal shares, drawn with replacement: against the mean over all batches of two."""
    generator = torch.Generator().manual_seed(1)
    single = torch.randn(5, 3, generator=generator)
    pairs = torch.stack([(single[i] + single[j]) / 2 for i in range(5) for j in range(5)])
    moments = gradient_kernels.ExpectedMoments(0.9, 2)
    moments._see({"weight": single.mean(0)}, {"weight": single.square().mean(0)})
    torch.testing.assert_close(moments.now()["weight"], pairs.square().mean(0))


def test_examples_without_a_batch_have_bounded_kernels(gang: dict[str, Any]) -> None:
    """What the run never trains on has a history too: no entry of P g is above the inverse root of its share / B."""
    measure_kernels(job(gang, parameters="linear", checkpoints=1), OUTPUT)
    kernels = read_kernel_file(OUTPUT)[0].kernels
    drawn, others = np.abs(kernels["adamw"][0, :16]).max(), np.abs(kernels["adamw"][0, 16:]).max()
    assert 0 < others < 10 * drawn


@pytest.mark.parametrize("lora", [None, LORA])
def test_kernels_of_several_runs_are_their_mean(gang: dict[str, Any], lora: dict[str, Any] | None) -> None:
    """Without adapters all runs begin alike; adapters begin with each run's own random numbers."""
    gang["model"]["lora"] = lora
    alone = []
    for run in gang["runs"][:2]:
        measure_kernels(job(gang, runs=[run]), OUTPUT)
        alone.append(read_kernel_file(OUTPUT)[0].kernels)
    measure_kernels(job(gang, runs=gang["runs"][:2]), OUTPUT)
    found, provenance = read_kernel_file(OUTPUT)
    assert [run["run_id"] for run in provenance["runs"]] == [run["run_id"] for run in gang["runs"][:2]]
    for name, values in found.kernels.items():
        assert not np.allclose(alone[0][name][1:], alone[1][name][1:], rtol=0.1)
        assert np.array_equal(alone[0][name][0], alone[1][name][0]) == (lora is None)
        np.testing.assert_allclose(values, (alone[0][name] + alone[1][name]) / 2, rtol=1e-5, atol=1e-7)


def test_the_same_bytes(gang: dict[str, Any]) -> None:
    measure_kernels(job(gang), OUTPUT)
    first = OUTPUT.read_bytes()
    measure_kernels(job(gang), OUTPUT)
    assert OUTPUT.read_bytes() == first


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernels.safetensors"
    with pytest.raises(UserError, match=r"kernels\.safetensors: missing"):
        read_kernel_file(path)
    kernel = np.zeros((2, 3, 4), np.float32)
    write_kernel_file(path, KernelFile(np.arange(2), np.ones(3, int), {"sgd": kernel, "adamw": kernel[:, :2]}), {})
    with pytest.raises(UserError, match="its kernels are not whole"):
        read_kernel_file(path)
    write_kernel_file(path, KernelFile(np.arange(2), np.ones(3, int), {"sgd": kernel}), {})
    with pytest.raises(UserError, match="holds no gradient kernels"):
        read_kernel_file(path)
    write_parquet(path, pa.table({"x": [1]}), {})
    with pytest.raises(UserError, match="no readable gradient kernels"):
        read_kernel_file(path)
