"""The gradient kernels of a group, in one safetensors file. Torch is not imported here: readers need none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptfluence.arrays import read_arrays, write_arrays
from gptfluence.errors import UserError

KERNELS = ("sgd", "adamw")
"""Names of kernels; see `gradient_kernels`."""


class KernelFile(NamedTuple):
    """Kernels at checkpoints of runs.

    Attributes:
        steps: [checkpoints], how many updates were made before each.
        tokens: [train], target tokens of each training example.
        kernels: by name, [checkpoints, train, tests].
    """

    steps: NDArray[np.int64]
    tokens: NDArray[np.int64]
    kernels: dict[str, NDArray[np.float32]]


def write_kernel_file(path: str | Path, content: KernelFile, provenance: dict[str, Any]) -> None:
    """Write kernels atomically."""
    write_arrays(path, {"steps": content.steps, "tokens": content.tokens, **content.kernels}, provenance)


def read_kernel_file(path: str | Path) -> tuple[KernelFile, dict[str, Any]]:
    """Read kernels back, and what made them.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    arrays, provenance = read_arrays(path, "gradient kernels")
    if not {"steps", "tokens", *KERNELS} <= arrays.keys():
        raise UserError(f"{path}: holds no gradient kernels. Delete it and run snakemake again.")
    steps, tokens = arrays.pop("steps"), arrays.pop("tokens")
    shape = (len(steps), len(tokens))
    if any(values.ndim != 3 or values.shape[:2] != shape for values in arrays.values()):
        raise UserError(f"{path}: its kernels are not whole. Delete it and run snakemake again.")
    return KernelFile(steps, tokens, arrays), provenance
