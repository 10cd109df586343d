"""Random projections of gradients, from both sides, so that a layer's whole gradient need not be formed.

P G = left G right' with Gaussian entries of variance 1 / p: inner products are kept on average. Which numbers stand in
them depends on a seed and the parameter's name alone, by a counter-based generator: the same on every machine, and
nothing needs to be stored.
"""

from __future__ import annotations

import numpy as np
import torch

from gptfluence.randomness import named_generator


class Projection:
    """Projects the gradients of one parameter.

    Args:
        shape: of the parameter.
        size: p, the rows and the columns that are left of a matrix; a vector keeps p^2 numbers. What is smaller is
            left as it is on that side.
        seed, name: what the random numbers depend on.
        device: where it is used.

    Attributes:
        width: numbers that are left.
        left, right: [p, out] and [p, in] for a matrix; [width, n] and None for a vector.
    """

    def __init__(
        self, shape: tuple[int, ...], size: int, seed: int, name: str, device: torch.device | None = None
    ) -> None:
        def gaussian(side: str, rows: int, columns: int) -> torch.Tensor:
            if rows >= columns:
                return torch.eye(columns, device=device)
            values = named_generator("projection", seed, name, side).standard_normal((rows, columns), dtype=np.float32)
            return torch.from_numpy(values).to(device) / rows**0.5

        self.right: torch.Tensor | None = None
        if len(shape) == 1:
            self.left = gaussian("left", size * size, shape[0])
            self.width = len(self.left)
        else:
            self.left, self.right = gaussian("left", size, shape[0]), gaussian("right", size, shape[1])
            self.width = len(self.left) * len(self.right)

    def apply(self, gradients: torch.Tensor) -> torch.Tensor:
        """Project whole gradients, [examples, *shape]; return [examples, width]."""
        if self.right is None:
            return gradients @ self.left.T
        return (self.left @ gradients @ self.right.T).flatten(1)
