from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from gptfluence.errors import UserError
from gptfluence.params import json_schema, load_params, read_params, setting


def problems(raw: dict[str, Any], tmp_path: Path) -> list[str]:
    """Write `raw` as params.yaml, load it, and return the lines of the error."""
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_params(raw, file)
    return str(caught.value).splitlines()


def test_shipped_params_load(root: Path) -> None:
    params = read_params(root / "params.yaml")
    assert params.scale == "nano"
    assert params.plan is params.scales["nano"]


def test_json_schema_is_current(root: Path) -> None:
    """After a change of params.py: `gptfluence schema > workflow/schemas/params.schema.json`."""
    assert (root / "workflow/schemas/params.schema.json").read_text(encoding="utf-8") == json_schema()


def test_a_ceiling_needs_the_replays_of_steps(raw_params: dict[str, Any], tmp_path: Path) -> None:
    raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]["ceiling"] = True
    raw_params["attribution"]["replays"] = ["tracin", "grad_dot"]
    _, *lines = problems(raw_params, tmp_path)
    asked = [f"real.scenarios.{scenario}" for scenario in ("fine_tuning", "instruction_tuning")]
    assert [line.split(": ", 1)[1] for line in lines] == [
        f"scales.{name}.ceiling: asks for tracin_adamw in attribution.replays"
        for name in ("nano.scenarios.fine_tuning", *asked)
    ]


def test_every_mistake_at_once_each_with_its_line(raw_params: dict[str, Any], tmp_path: Path) -> None:
    raw_params["simulator"] = {}
    raw_params["dynamics"]["optimizer"]["betta1"] = 0.9
    raw_params["dynamics"]["init_seed"] = "one"
    raw_params["scores"].pop("confidence")
    raw_params["scales"]["nano"]["scenarios"]["fine_tuning"]["draw"] = 128
    raw_params["scales"]["nano"]["pool"] = 100
    raw_params["scales"]["nano"]["scenarios"]["instruction_tuning"]["models"][0] = "nano-02m"
    head, *lines = problems(raw_params, tmp_path)
    text = (tmp_path / "params.yaml").read_text(encoding="utf-8").splitlines()
    expected = {
        "simulator: unknown key (did you mean 'simulators'?)",
        "dynamics.optimizer.betta1: unknown key (did you mean 'beta1'?)",
        "dynamics.init_seed: must be a whole number, not 'one'",
        "scores.confidence: missing",
        "scales.nano.scenarios.fine_tuning.draw: cannot draw 128 of a pool of 100; lower draw or raise pool",
    }
    found = {line.split(": ", 1)[1] for line in lines}
    assert expected <= found
    assert any(
        m.startswith(
            "scales.nano.scenarios.instruction_tuning.models.0: no model 'nano-02m' (did you mean 'nano-0.2m'?)"
        )
        for m in found
    )
    assert head == f"params.yaml has {len(lines)} mistakes:"
    for line in lines:
        place, key, _ = line.strip().split(": ", 2)
        shown = text[int(place.split(":")[1]) - 1]
        last = key.split(".")[-1]
        assert last in shown or last == "confidence" or last.isdigit() or "nano-02m" in shown, line


def test_every_mistake_in_schedules_at_once(raw_params: dict[str, Any], tmp_path: Path) -> None:
    plan = raw_params["scales"]["nano"]
    settings = {
        "own": {"learning_rate": 2.0},
        "same": {"batch": 4},
        "odd": {"batch": 7},
        "still": {"learning_rate": 0.0},
        "late": {"schedule": "lineer", "warmup": 1.0},
    }
    runs = {"fit": 1, "validate": 0, "held_out": 1}
    plan["scenarios"]["fine_tuning"]["schedules"] = {
        "models": ["nano-3m"], "tasks": ["rta"], "runs": runs, "settings": settings,
    }  # fmt: skip
    mixed = {"tasks": ["rte"], "runs": runs | {"validate": 1}, "settings": {"odd": {"batch": 7}, "b": {"bach": 2}}}
    plan["scenarios"]["instruction_tuning"]["schedules"] = mixed
    raw_params["scores"]["schedules"]["methods"] = ["gptfluence_mlp", "gradient_respond"]
    _, *lines = problems(raw_params, tmp_path)
    fine, mixture = (f"scales.nano.scenarios.{name}.schedules" for name in ("fine_tuning", "instruction_tuning"))
    expected = [
        f"{fine}.models.0: no model of this scenario 'nano-3m' (did you mean",
        f"{fine}.tasks.0: no task of this scenario 'rta' (did you mean 'rte'?)",
        f"{fine}.runs.validate: ",
        f"{fine}.settings.own: is a reserved name",
        f"{fine}.settings.same: is the scenario's own",
        f"{fine}.settings.odd.batch: 40 drawn examples do not fill batches of 7",
        f"{fine}.settings.still.learning_rate: ",
        f"{fine}.settings.late.schedule: ",
        f"{fine}.settings.late.warmup: ",
        f"{mixture}.tasks: instruction tuning has one mixture",
        f"{mixture}.settings.odd.batch: 120 drawn examples do not fill batches of 7",
        f"{mixture}.settings.b.bach: unknown key (did you mean 'batch'?)",
        "scores.schedules.methods.0: is of a kind that cannot be fitted on several schedules at once",
        "scores.schedules.methods.1: no method in simulators.methods 'gradient_respond' (did you mean",
    ]
    for message in expected:
        assert any(message in line for line in lines), message
    assert len(lines) == len(expected)


KERNELS = ("scales", "nano", "scenarios", "instruction_tuning", "kernel_checkpoints")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("scale",), "nanno", "no scale 'nanno' (did you mean 'nano'?)"),
        (("dynamics", "generation", "top_p"), 1.5, "less than or equal to 1"),
        (("dynamics", "models", "nano-3m", "heads"), 7, "240 is not a multiple of heads = 7"),
        (("dynamics", "models", "nano-3m", "source"), "hubb", "'hub', 'folder', 'gguf', 'world'"),
        (("simulators", "methods", "gptfluence", "head"), "linear", "head bilinear or mlp"),
        (("simulators", "methods", "simfluence", "strengths"), 3, "must be a list, not 3"),
        (("simulators", "methods", "Sim fluence"), {}, "pattern"),
        (("baselines", "trivial"), ["mean"], "mean_curve"),
        (("scales", "nano", "scenarios", "fine_tuning", "learning_rate"), "fast", "must be a number, not 'fast'"),
        (("scales", "nano", "scenarios", "fine_tuning", "learning_rate"), {"rte": 1.0}, "every model or every task"),
        (("scales", "nano", "scenarios", "fine_tuning", "batch"), 7, "do not fill batches of 7"),
        (("scales", "nano", "scenarios", "fine_tuning", "train_tasks"), ["rte"], "not among train_tasks"),
        (("scales", "nano", "unseen_pool"), 8, "unseen_pool of 8"),
        (("tasks", "own"), {"rte": {"train": "a", "test": "b"}}, "built-in task"),
        (("tasks",), [], "must be a mapping"),
        (("scales", "nano", "scenarios", "fine_tuning", "train_tasks"), [{"rte": 1}], "must be a text"),
        (("scales", "nano", "scenarios", "fine_tuning", "models"), [], "at least 1 item"),
        (("scales", "nano", "scenarios", "fine_tuning", "models"), ["nano-3m", "nano-3m"], "stands there twice"),
        (("scales", "nano", "scenarios", "instruction_tuning", "learning_rate"), {"rte": 1.0}, "must name every model"),
        (("scales", "nano", "pool"), 500, "at most 400"),
        (("scales", "nano", "test"), {"rtee": 3}, "did you mean 'rte'?"),
        (("scales", 1), {}, "must be a text, not 1"),
        (("scales", "nano", "scenarioss"), {}, "unknown key (did you mean 'scenarios'?)"),
        (("dynamics", "models", "nano-3m", "witdh"), 1, "unknown key (did you mean 'width'?)"),
        (("simulators", "methods", "simfluence", "variants"), 1, "unknown key (did you mean 'variant'?)"),
        (("simulators", "methods", "mean_curve"), {}, "reserved name"),
        (("simulators", "methods", "simfluence", "strengths"), [], "at least 1 item"),
        (("curricula", "draw_seed"), -1, "greater than or equal to 0"),
        (("attribution", "methods"), ["tracinn"], "'trackstar'"),
        (("attribution", "checkpoints"), 1, "greater than or equal to 2"),
        (("attribution", "kernel_checkpoints"), 0, "greater than 0"),
        (("simulators", "methods", "tracin"), {}, "reserved name"),
        (
            ("simulators", "methods", "mine"),
            {"kind": "additive", "scores": "ekfac", "scale": "none"},
            "no method in attribution.methods 'ekfac'",
        ),
        (("scales", "nano", "scenarios", "fine_tuning", "subsets"), {"rte": 50}, "every model or every task"),
        (("scales", "nano", "scenarios", "fine_tuning", "subsets"), -1, "greater than or equal to 0"),
        (KERNELS, [1, 3], "[1, 3]: steps begin with 0 and rise"),
        (KERNELS, [0, 3, 3], "steps begin with 0 and rise"),
        (KERNELS, [0, 1, 15], "no step 15: runs have 15, and the first is 0"),
        (KERNELS, [0, "a"], "whole number, not 'a'"),
        (KERNELS, [], "at least 1"),
        (KERNELS, 0, "greater than 0"),
        (("scales", "nano", "scenarios", "fine_tuning", "kernel_runs"), 11, "no 11 fitting runs: runs.fit is 10"),
        (("scales", "nano", "scenarios", "fine_tuning", "kernel_runs"), 0, "greater than 0"),
        (("scales", "nano", "scenarios", "fine_tuning", "runs", "repeats"), 9, "cannot repeat 9 of 8 held-out runs"),
        (("scales", "nano", "scenarios", "fine_tuning", "runs", "repeats"), -1, "greater than or equal to 0"),
        (("simulators", "methods", "ceiling"), {}, "reserved name"),
        (("scales", "nano", "mislabelled", "draw"), 300, "cannot draw 300 of a pool of 256"),
        (("scales", "nano", "mislabelled", "batch"), 7, "do not fill batches of 7"),
        (("scales", "nano", "mislabelled", "task"), "webnlg", "'sst2', 'rte' or 'boolq'"),
        (("scales", "nano", "mislabelled", "model"), "nano-9m", "no model 'nano-9m'"),
        (("scales", "nano", "mislabelled", "fractions"), [1.5], "less than or equal to 1"),
        (("scales", "nano", "mislabelled", "test"), 1000, "at most 300"),
        (("scales", "nano", "choices", "model"), "nano-3m", "no model of fine-tuning 'nano-3m'"),
        (("scales", "nano", "choices", "tasks"), ["cnn_dailymail"], "no test task of fine-tuning 'cnn_dailymail'"),
        (("scales", "nano", "choices", "tasks"), ["rte", "rte"], "stands there twice"),
        (("scales", "nano", "choices", "simulators"), ["gptfluenc"], "did you mean 'gptfluence'?"),
        (("scales", "nano", "choices", "scores"), ["ekfac"], "no method in attribution.methods 'ekfac'"),
        (("scales", "nano", "choices", "budget"), 80, "cannot choose 80 of a pool of 64"),
        (("scales", "nano", "choices", "budget"), 30, "30 examples do not fill batches of 4"),
        (("scales", "nano", "choices", "budget"), 28, "28 does not divide the 120 places"),
        (("scales", "nano", "choices", "random"), 1, "greater than or equal to 2"),
        (("scores", "variants", "gradient_responce"), {}, "did you mean 'gradient_response'?"),
        (
            ("scores", "variants", "gradient_response", "one"),
            {"kernel": ["sgd"]},
            "unknown key (did you mean 'kernels'?)",
        ),
        (("scores", "variants", "gradient_response", "one"), {"momenta": [1.5]}, "less than 1"),
        (("scores", "variants", "gradient_response", "one"), {"kind": "simfluence"}, "add a method instead"),
        (("scores", "variants", "gradient_response", "whole"), {}, "reserved name"),
        (("scales", "nano", "variants"), {"gptfluenc": {"a": {}}}, "did you mean 'gptfluence'?"),
        (("scales", "nano", "variants"), {"gptfluence": {"a": {"features": "brt"}}}, "did you mean 'bert'?"),
        (("scores", "convergence", "mean"), {}, "no method in simulators.methods 'mean'"),
        (("scores", "convergence", "gptfluence_mlp"), {}, "cannot be fitted both by Adam and exactly"),
        (("scores", "convergence", "gptfluence", "order"), 0, "greater than 0"),
        (("scores", "learning", "methods"), ["mean_curv"], "did you mean 'mean_curve'?"),
        (("scores", "learning", "runs"), [0], "greater than 0"),
        (("simulators", "methods", "gptfluence", "kind"), "simfluence", "ranks by simulators.methods.gptfluence"),
    ],
)
def test_mistake_is_named(
    raw_params: dict[str, Any], tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    node = raw_params
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    lines = problems(raw_params, tmp_path)
    assert any(message in line and (path[0] in line or "mislabelled" in line) for line in lines[1:]), lines


def test_variants_of_a_scale_come_on_top(raw_params: dict[str, Any], root: Path) -> None:
    raw_params["scales"]["nano"]["variants"] = {"gptfluence": {"bert": {"features": "bert"}}, "simfluence": {}}
    params = load_params(raw_params, root / "params.yaml")
    of_all = raw_params["scores"]["variants"]
    assert params.variants["gptfluence"] == of_all["gptfluence"] | {"bert": {"features": "bert"}}
    assert params.variants["simfluence"] == of_all["simfluence"]
    params = load_params(raw_params | {"scale": "real"}, root / "params.yaml")
    assert params.variants == of_all


def test_file_that_is_not_yaml(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("scale: [nano\n", encoding="utf-8")
    with pytest.raises(UserError, match="not valid YAML"):
        read_params(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_params(tmp_path / "none.yaml")


def test_setting_resolves_by_the_first_name_it_holds() -> None:
    assert setting(3, "a") == 3
    assert setting({"a": 1, "b": 2}, "x", "b") == 2
