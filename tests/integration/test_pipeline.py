"""The whole pipeline at a tiny scale, with the real engines: what comes out, what runs again, what survives."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from gptfluence.design import FIGURES
from gptfluence.dynamics.pretrain import make_config, train_tokenizer
from gptfluence.io import read_parquet, read_provenance
from gptfluence.simulators.files import load_simulator
from gptfluence.words import COVERAGES
from pipeline import ROOT, heed_interrupts, snakemake
from transformers import GPTNeoXForCausalLM

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished folder, to be changed; file times kept."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def planned(folder: Path) -> dict[str, int]:
    """Return how many jobs of each rule a call would run."""
    result = snakemake(folder, "-n", "--quiet", "rules")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit() and row[0] != "total"}


def edit(folder: Path, change: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def test_every_artefact_is_there(finished: Path) -> None:
    shards = sorted((finished / "data/dynamics").glob("*.parquet"))
    # Two scenarios; random subsets in two orders each; another schedule; the mislabelled task.
    assert len(shards) == 6 + 5 + 3 * 2 + 4 + 4
    for shard in shards:
        assert read_provenance(shard)["run"]["run_id"] in shard.name
    assert len(list((finished / "data/curricula").glob("*.parquet"))) == len(shards)
    corrected = list((finished / "data/mislabels/dynamics").glob("*.parquet"))
    assert len(corrected) == (3 + 2) * 2  # orders, two of them random, times fractions
    chosen = list((finished / "data/choices/dynamics").glob("*.parquet"))
    assert len(chosen) == 2 * (2 * 2 + 1) + 2  # halves, simulators in two orders and a method of scores; random ones
    scores = pq.read_table(finished / "results/scores/scores.parquet")
    assert set(scores.column_names) >= {
        "scenario", "model", "task", "metric", "method", "setting", "measure", "value",
        "std_over_trajectories", "std_over_runs", "low", "high", "n_runs", "n_examples",
    }  # fmt: skip
    columns = {name: set(scores[name].to_pylist()) for name in ("scenario", "metric", "method", "setting", "measure")}
    assert columns["scenario"] == {"fine_tuning", "instruction_tuning"}
    assert columns["metric"] == {"loss", "bleu", "rouge_l"}
    assert columns["method"] >= {
        "persistence",
        "global_ar1",
        "mean_curve",
        "simfluence",
        "gptfluence",
        "gptfluence_gradients",
        "gptfluence_mlp",
        "tracin",
        "tracin_adamw",
        "tracin_cp",
        "grad_dot",
    }
    assert columns["setting"] == {"seen", "unseen_train"}
    assert columns["measure"] == {
        "all_steps_mse", "all_steps_mae", "final_step_spearman", "skill", "across_run_correlation",
        *COVERAGES,
    }  # fmt: skip
    assert json.loads((finished / "results/scores/metrics.json").read_text())
    for table in (*map(str, range(1, 14)), "attribution", "choices", "simulators"):
        for ending in ("csv", "md", "tex", "html", "provenance.json"):
            assert (finished / f"results/tables/table_{table}.{ending}").stat().st_size > 0
    for figure in FIGURES:
        assert (finished / f"results/figures/{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert (finished / f"results/figures/{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_schedules_are_judged(finished: Path) -> None:
    rows = read_parquet(finished / "results/scores/simulators.parquet").to_pylist()
    scheduled = [row for row in rows if row["setting"] == "schedule_unseen" and row["value"] is not None]
    assert {row["group"] for row in scheduled} == {"fine_tuning-tiny-rte"}
    methods = ("persistence", "time_curve", "gptfluence", "gradient_response")
    assert {(row["method"], row["variant"]) for row in scheduled} == {
        (method, schedule) for method in methods for schedule in ("own", "small", "average")
    }
    (shard,) = (finished / "data/dynamics").glob("*-small-01.*.parquet")
    assert set(read_parquet(shard)["step"].to_pylist()) == {0, 1, 2, 3, 4}  # the group's own runs have two steps


def test_the_report_shows_every_table_and_figure(finished: Path) -> None:
    text = (finished / "results/report.html").read_text(encoding="utf-8")
    shown = {path.stem for kind in ("tables/*.csv", "figures/*.png") for path in (finished / "results").glob(kind)}
    assert len(shown) >= 15
    assert all(f'<article id="{name}">' in text for name in shown)
    assert len(text) < 5_000_000
    versions = read_provenance(next((finished / "data/dynamics").glob("*.parquet")))["versions"]
    assert versions["torch"] in text
    made = json.loads((finished / "results/tables/table_1.provenance.json").read_text())
    assert all(value in text for value in (made["spec"], made["code"], *made["files"].values()))


def test_the_page_is_there(finished: Path) -> None:
    page = finished / "results/whatif.html"
    assert page.stat().st_size < 3e6
    assert {f'id="group-{number}"' in page.read_text(encoding="utf-8") for number in (0, 1)} == {True}
    assert (finished / "results/whatif.provenance.json").is_file()


def test_attribution_is_judged(finished: Path) -> None:
    rows = read_parquet(finished / "results/scores/attribution.parquet").to_pylist()
    assert {row["group"] for row in rows} == {"fine_tuning-tiny-rte"}
    measured = {row["measure"] for row in rows if row["method"] == "trackstar" and row["value"] is not None}
    assert measured >= {"lds", "tail_patch", "mrr", "recall_at_10", "seconds"}
    measured = {row["measure"] for row in rows if row["method"] == "bm25_scaled" and row["value"] is not None}
    assert measured >= {"all_steps_mse", "skill", "across_run_correlation"}
    checked = read_parquet(finished / "results/scores/mislabels.parquet").to_pylist()
    assert {row["method"] for row in checked} == {"gptfluence", "tracin", "loss", "random"}
    assert {row["fraction"] for row in checked if row["measure"] == "accuracy"} == {0.0, 0.25, 0.5}


def test_choices_are_judged(finished: Path) -> None:
    rows = read_parquet(finished / "results/scores/choices.parquet").to_pylist()
    assert {(row["method"], row["order"]) for row in rows} == {
        *(("gradient_response", order) for order in ("chosen", "random")),
        *(("gptfluence", order) for order in ("chosen", "random")),
        *((method, "random") for method in ("grad_dot", "random", "best_random")),
    }
    assert {row["group"] for row in rows} == {"fine_tuning-tiny-rte"}


def test_simulations_start_from_the_measured_value(finished: Path) -> None:
    (path,) = (finished / "results/simulations").glob("fine_tuning-tiny-rte.loss.*.parquet")
    table = read_parquet(path)
    frame = table.to_pandas()
    measured = frame[frame.method == "measured"].set_index(["run_id", "task", "example", "step"]).value
    assert sorted(set(frame[frame.method == "measured"].step)) == [0, 1, 2]
    persistence = frame[frame.method == "persistence"]
    for row in persistence.itertuples():
        assert row.value == measured[row.run_id, row.task, row.example, 0]


def test_simulator_loads_without_the_pipeline(finished: Path, tmp_path: Path) -> None:
    (source,) = (finished / "results/simulators").glob("fine_tuning-tiny-rte.loss.gptfluence.*.safetensors")
    shutil.copy(source, tmp_path / "simulator.safetensors")
    simulator, provenance = load_simulator(tmp_path / "simulator.safetensors")
    assert simulator.start == 1 and provenance["runs"].keys() == {f"fine_tuning-tiny-rte-0{i}" for i in (1, 2, 3)}


def test_second_call_does_nothing(finished: Path) -> None:
    result = snakemake(finished)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout + result.stderr


def test_one_figure_is_one_job(copy: Path) -> None:
    (copy / "results/figures/figure_6.pdf").unlink()
    assert planned(copy) == {"write_figure": 1, "figures": 1, "all": 1} or planned(copy) == {
        "write_figure": 1,
        "all": 1,
    }
    result = snakemake(copy, "results/figures/figure_6.pdf")
    assert result.returncode == 0 and "1 of 1 steps (100%) done" in result.stdout + result.stderr


def test_a_subject_is_its_tables_and_figures(copy: Path) -> None:
    items = ["results/tables/table_10.md", "results/figures/figure_4.png"]
    before = [(copy / item).read_bytes() for item in items]
    for item in [*items, "results/figures/figure_3.png"]:
        (copy / item).unlink()
    result = snakemake(copy, "markov_order")
    assert "3 of 3 steps (100%) done" in result.stdout + result.stderr
    assert [(copy / item).read_bytes() for item in items] == before
    assert not (copy / "results/figures/figure_3.png").exists()


def test_several_files_are_asked_for_by_name(copy: Path) -> None:
    names = ["results/tables/table_attribution.md", "results/figures/figure_7.png", "results/figures/figure_2.png"]
    for name in names:
        (copy / name).write_bytes(b"not what was made")
    result = snakemake(copy, *names)
    assert result.returncode == 0 and "3 of 3 steps (100%) done" in result.stdout + result.stderr


def test_figure_is_redrawn_from_scores_alone(copy: Path) -> None:
    shutil.rmtree(copy / "data")
    for folder in ("features", "simulators", "simulations", "refits"):
        shutil.rmtree(copy / "results" / folder)
    before = (copy / "results/figures/figure_2.pdf").read_bytes()
    (copy / "results/figures/figure_2.pdf").unlink()
    result = snakemake(copy, "results/figures/figure_2.pdf")
    assert "1 of 1 steps (100%) done" in result.stdout + result.stderr
    assert result.returncode == 0, result.stdout + result.stderr
    assert (copy / "results/figures/figure_2.pdf").read_bytes() == before


def test_changed_setting_reruns_what_depends_on_it(copy: Path) -> None:
    edit(copy, lambda p: p["simulators"]["methods"]["simfluence"].update(strengths=[1.0]))
    jobs = planned(copy)
    assert jobs["fit_simulator"] == 4 and "train_runs" not in jobs
    edit(copy, lambda p: p["scores"].update(confidence=0.5))
    edit(copy, lambda p: p["simulators"]["methods"]["simfluence"].update(strengths=[0.1, 10.0]))
    judged = dict.fromkeys(("score_simulations", "judge_attribution", "judge_simulators", "judge_choices"), 1)
    shown = {"write_table": 10, "write_figure": 30, "write_page": 1, "write_report": 1}
    assert planned(copy) == {**judged, "refit_simulators": 4, **shown, "all": 1}
    edit(copy, lambda p: p["scores"].update(confidence=0.95))
    assert planned(copy) == {}


def test_times_and_snakemakes_records_do_not_matter(copy: Path) -> None:
    """As after a clone and a pull: files in any order, also from clocks that run ahead, and no record of a job."""
    shutil.rmtree(copy / ".snakemake")
    files = [file for file in copy.rglob("*") if file.is_file()]
    for number, file in enumerate(random.Random(1).sample(files, len(files))):
        os.utime(file, (time.time() + 60 * (number - 50),) * 2)
    assert planned(copy) == {}
    (copy / "results/figures/figure_6.png").write_bytes(b"drawn by hand")
    os.utime(copy / "results/figures/figure_6.pdf", (2e9, 2e9))
    assert planned(copy) == {"write_figure": 1, "all": 1}
    result = snakemake(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert planned(copy) == {}


def test_one_run_more_trains_one_run(copy: Path) -> None:
    edit(copy, lambda p: p["scales"]["tiny"]["scenarios"]["fine_tuning"]["runs"].update(unseen=2))
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "data/dynamics").glob("*.parquet")}
    result = snakemake(copy, "dynamics")
    assert result.returncode == 0, result.stdout + result.stderr
    after = {path.name: path.stat().st_mtime_ns for path in (copy / "data/dynamics").glob("*.parquet")}
    assert {name: after[name] for name in before} == before
    assert len(after.keys() - before.keys()) == 1


def test_lost_or_broken_shard_is_trained_again_with_the_same_bytes(copy: Path) -> None:
    shards = sorted((copy / "data/dynamics").glob("fine_tuning*.parquet"))
    whole = [shard.read_bytes() for shard in shards]
    shards[0].unlink()
    shards[1].write_bytes(whole[1][: len(whole[1]) // 2])
    result = snakemake(copy, "dynamics")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [shard.read_bytes() for shard in shards] == whole


def test_broken_shard_is_named_and_trained_again_where_all_that_depends_on_it_stands(copy: Path) -> None:
    """Also if one bit was flipped and the time set back."""
    shard = sorted((copy / "data/dynamics").glob("fine_tuning*.parquet"))[0]
    whole, stat = shard.read_bytes(), shard.stat()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    shard.write_bytes(flipped)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert planned(copy) == {"train_runs": 1, "all": 1}
    result = snakemake(copy)
    output = result.stdout + result.stderr
    assert result.returncode == 0 and f"{shard.name}: damaged" in output and "1 to train now" in output
    assert shard.read_bytes() == whole
    assert planned(copy) == {}


def test_interrupted_at_any_moment_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """Ctrl-C, kill -9 of all processes, Ctrl-C, each when another job is under way; then the same call to the end."""
    shutil.copy(finished / "params.yaml", tmp_path / "params.yaml")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    command += ["--profile", str(ROOT / "workflow/profiles/local"), "--cores", "2", "dynamics"]
    moments = (("logs/tasks/*", signal.SIGINT), ("data/models/*", signal.SIGKILL), ("data/scratch/*", signal.SIGINT))
    for awaited, sent in moments:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
        deadline = time.monotonic() + 100
        while not list(tmp_path.glob(awaited)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, sent)
        output, _ = process.communicate()
        assert "Traceback" not in output, output
        for shard in (tmp_path / "data").rglob("*.parquet"):
            if not shard.name.startswith("."):
                read_parquet(shard)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    ours = {path.name: path.read_bytes() for path in (tmp_path / "data/dynamics").glob("*.parquet")}
    assert ours == {path.name: path.read_bytes() for path in (finished / "data/dynamics").glob("*.parquet")}
    assert not list((tmp_path / "data/scratch").iterdir())


def test_own_task_and_own_model(tmp_path: Path, tiny_params: dict[str, Any]) -> None:
    """What a user does first: two JSON Lines files, a model folder, a scale of one's own."""
    for name, count in (("train", 20), ("test", 4)):
        rows = [{"q": f"What is {i} plus {i % 7}?", "a": [f"{i + i % 7}", f"It is {i + i % 7}."]} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = train_tokenizer([f"What is {i} plus {j}? {i + j}" for i in range(9) for j in range(9)], 300)
    config = make_config({"layers": 1, "width": 32, "heads": 2, "max_length": 128}, len(tokenizer))
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    own = {"train": "train.jsonl", "test": "test.jsonl", "prompt": "q", "target": "a", "metrics": ["loss", "rouge_l"]}
    tiny_params["tasks"]["own"] = {"sums": own}
    tiny_params["dynamics"]["models"] = {"mine": {"source": "folder", "path": "mine", "max_length": 128}}
    settings = tiny_params["scales"]["tiny"]["scenarios"]["fine_tuning"]
    settings |= {"models": ["mine"], "train_tasks": ["sums"], "test_tasks": ["sums"]}
    settings["runs"] = {"fit": 2, "validate": 1, "held_out": 2, "unseen": 0}
    scale = tiny_params["scales"]["tiny"] | {"unseen_pool": 0, "scenarios": {"fine_tuning": settings}}
    tiny_params |= {"scale": "mine", "scales": {"mine": scale}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params, sort_keys=False))
    result = snakemake(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    scores = pq.read_table(tmp_path / "results/scores/scores.parquet").to_pylist()
    assert {row["metric"] for row in scores} == {"loss", "rouge_l"}
    assert {row["task"] for row in scores} == {"sums", "average"}
    # Two wordings count as right: a sample is compared with both.
    shard = next((tmp_path / "data/dynamics").glob("*.parquet"))
    assert read_parquet(shard)["rouge_l"].null_count == 0
    assert "no instruction tuning runs" in (tmp_path / "results/tables/table_1.md").read_text()
    assert "sums" in (tmp_path / "results/tables/table_2.md").read_text()
