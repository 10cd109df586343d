from __future__ import annotations

import subprocess
import sys

import torch
from gptfluence.attribution.projection import Projection


def test_inner_products_are_kept_on_average() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 30, 20)
    exact = (a * b).sum().item()
    found = []
    for seed in range(400):
        projection = Projection((30, 20), 6, seed, "layer")
        x, y = projection.apply(torch.stack([a, b]))
        found.append(float(x @ y))
    values = torch.tensor(found)
    error = values.std().item() / len(found) ** 0.5
    assert abs(values.mean().item() - exact) < 4 * error and error < 0.1 * a.norm().item() * b.norm().item()


def test_vectors_and_small_matrices_are_not_blown_up() -> None:
    small = torch.randn(3, 2, 4)
    assert Projection((2, 4), 8, 0, "w").width == 8
    assert torch.equal(Projection((2, 4), 8, 0, "w").apply(small), small.flatten(1))
    assert Projection((100,), 4, 0, "b").apply(torch.randn(3, 100)).shape == (3, 16)
    assert Projection((10,), 4, 0, "b").width == 10


def test_numbers_depend_on_seed_and_name_alone() -> None:
    """Also in another process."""
    shape = (12, 9)
    first = Projection(shape, 3, 1, "layer")
    assert torch.equal(first.left, Projection(shape, 3, 1, "layer").left)
    for other in (Projection(shape, 3, 2, "layer"), Projection(shape, 3, 1, "another")):
        assert not torch.equal(first.left, other.left) and not torch.equal(first.right, other.right)
    assert not torch.equal(first.left[:, :9], first.right)
    code = (
        "from gptfluence.attribution.projection import Projection as P; print(P((12, 9), 3, 1, 'layer').left.tolist())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(first.left.tolist())
