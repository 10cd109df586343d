import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `trajectories`

from trajectories import Methods, make_methods


@pytest.fixture
def methods() -> Methods:
    """Trajectories that a test may change."""
    return make_methods()
