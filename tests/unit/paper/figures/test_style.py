"""How methods look."""

from gptfluence.paper.figures.style import method_style
from gptfluence.paper.names import METHODS


def test_each_method_looks_like_no_other() -> None:
    names = [*METHODS, "own_1", "own_2", "own_3"]
    looks = {(s.colour, s.marker) for s in (method_style(name, names) for name in names)}
    assert len(looks) == len(names)


def test_a_users_own_method_is_called_by_its_name_and_keeps_its_look_in_every_order() -> None:
    assert method_style("own_1", ["own_2", "own_1"]) == method_style("own_1", ["own_1", "own_2", "simfluence"])
    assert method_style("own_2", ["own_1"]).label == "own_2"
    assert method_style("simfluence", []).label == "Simfluence (linear)"
