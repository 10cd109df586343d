from pathlib import Path

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.simulators.files import load_simulator, save_simulator
from gptfluence.simulators.fit import fit_simulator
from gptfluence.simulators.registry import METHODS, make_method
from synthetic import METHOD_SETTINGS, chosen_runs, planted, write_group


@pytest.mark.parametrize("name", METHOD_SETTINGS)
def test_round_trip_gives_identical_simulations(name: str, tmp_path: Path) -> None:
    dynamics, curricula, features = planted(runs=6, steps=10)
    simulator = make_method(name, METHOD_SETTINGS[name])
    simulator.fit(dynamics, curricula, features)
    path = tmp_path / "simulators" / "s.safetensors"
    save_simulator(simulator, path, {"group": "g"})
    loaded, provenance = load_simulator(path)
    assert provenance == {"group": "g"}
    assert type(loaded) is type(simulator) and loaded.start == simulator.start
    np.testing.assert_array_equal(loaded.extent, simulator.extent)
    first = dynamics.values[:, : simulator.start]
    np.testing.assert_array_equal(loaded.simulate(curricula, first), simulator.simulate(curricula, first))
    assert loaded.state()[1] == simulator.state()[1]
    again = tmp_path / "again.safetensors"
    save_simulator(loaded, again, provenance)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["s.safetensors"]


def test_every_kind_is_covered() -> None:
    assert {make_method(name, settings).kind for name, settings in METHOD_SETTINGS.items()} == set(METHODS)


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "kind", "foreign"])
def test_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    dynamics, curricula, features = planted(runs=6, steps=10)
    simulator = make_method("mean_curve", METHOD_SETTINGS["mean_curve"])
    simulator.fit(dynamics, curricula, features)
    path = tmp_path / "damaged.safetensors"
    save_simulator(simulator, path, {})
    whole = path.read_bytes()
    if damage == "foreign":
        from safetensors.numpy import save_file

        save_file({"x": np.zeros(2)}, path)
    else:
        path.write_bytes(
            {
                "cut": whole[: len(whole) // 2],
                "header": b"\xff" * 40 + whole[40:],
                "empty": b"",
                "kind": whole.replace(b"mean_curve", b"mean_carve"),
            }[damage]
        )
    with pytest.raises(UserError, match=r"damaged\.safetensors") as error:
        load_simulator(path)
    assert "snakemake" in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        load_simulator(tmp_path / "no.safetensors")


def test_unknown_kind_and_setting() -> None:
    with pytest.raises(UserError, match="did you mean 'simfluence'"):
        make_method("mine", {"kind": "simfluense"})
    with pytest.raises(UserError, match=r"'mine'.*surprise"):
        make_method("mine", METHOD_SETTINGS["gptfluence"] | {"surprise": 1})


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """safetensors has no checksums: the file's own digest tells."""
    spec = write_group(tmp_path)
    path = tmp_path / "s.safetensors"
    fit_simulator(
        chosen_runs(spec, "fit", "validate") | {"method": "simfluence", "settings": METHOD_SETTINGS["simfluence"]}, path
    )
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    tensors = 8 + int.from_bytes(whole[:8], "little")  # behind the header
    for place in rng.integers(tensors, len(whole), 40):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"s\.safetensors"):
            load_simulator(path)
