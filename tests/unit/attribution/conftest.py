"""The small model and its gang of runs, as the tests of the dynamics have them."""

from unit.dynamics.conftest import gang, model_folder

__all__ = ["gang", "model_folder"]
