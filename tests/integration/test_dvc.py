"""Snakemake and DVC on the same files, with the real engines: what a clone, an edit or damage makes them do."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
import yaml
from dvc_repository import Repository, jobs, make_repository, stages_run

pytestmark = pytest.mark.slow

NOTHING = "Nothing to be done"


def assert_nothing_to_do(repository: Repository) -> None:
    """Neither engine has anything to do, nor touches a file."""
    before = repository.inodes()
    assert NOTHING in repository.snakemake("-n")
    said = repository.dvc("repro")
    assert stages_run(said) == [], said
    assert repository.inodes() == before


def shuffle_times(repository: Repository) -> None:
    """Give every file of the repository, code and params.yaml too, another time in the past or near future."""
    chosen = random.Random(1)
    now = time.time()
    for folder, _, files in os.walk(repository.folder):
        if "/.git" not in folder:
            for name in files:
                path = Path(folder, name)
                if not path.is_symlink():
                    os.utime(path, (now + chosen.uniform(-3e6, 1e4),) * 2)


def stage_names(repository: Repository) -> list[str]:
    """Return the names of all stages in the order in which they are recorded."""
    return list(yaml.safe_load(repository.path("dvc.lock").read_text(encoding="utf-8"))["stages"])


# ------------------------------------------------------------------------------------------------- what stands


def test_own_package_is_used(published: Repository) -> None:
    """These tests run the copy's package, in both engines and in the jobs."""
    said = published.run("python", "-c", "import gptfluence; print(gptfluence.__file__)")
    assert said.startswith(str(published.folder))


def test_after_clone_and_pull_nothing_runs(pulled: Repository, published: Repository) -> None:
    """`git clone`, `dvc pull`, `snakemake -n`: nothing to do; `dvc repro`: no stage runs."""
    assert pulled.digests() == published.digests()
    assert_nothing_to_do(pulled)
    shuffle_times(pulled)
    assert_nothing_to_do(pulled)


def test_what_snakemake_made_of_every_stage_is_recorded_and_pulled(finished: Path, tmp_path: Path) -> None:
    """A plan with attribution and mislabelled data: `dvc repro` computes nothing, and a clone that pulls has it all."""
    raw = yaml.safe_load((finished / "params.yaml").read_text(encoding="utf-8"))
    origin = make_repository(tmp_path / "origin", tmp_path / "home", raw)
    for folder in ("data", "results"):
        shutil.copytree(finished / folder, origin.path(folder), dirs_exist_ok=True)
    origin.dvc("remote", "add", "--default", "storage", str(tmp_path / "storage"))
    said = origin.dvc("repro")
    assert jobs(said) == {}, said
    assert all(origin.made(folder) for folder in ("data/mislabels", "results/attribution"))
    origin.commit("all stages")
    origin.dvc("push")
    clone = origin.clone_to(tmp_path / "clone")
    clone.dvc("pull")
    assert clone.digests() == origin.digests()
    assert_nothing_to_do(clone)


def test_order_of_pulls_does_not_matter(clone: Repository) -> None:
    """Files fetched stage by stage, results first, are as good as those of one `dvc pull`."""
    for stage in reversed(stage_names(clone)):
        clone.dvc("pull", stage)
        time.sleep(0.01)
    assert_nothing_to_do(clone)


def test_switching_branches_and_back(pulled: Repository) -> None:
    """After `git checkout BRANCH && dvc checkout`, once pulled, nothing runs, and so on the way back."""
    home = pulled.digests()
    pulled.git("checkout", "--quiet", "other")
    pulled.dvc("pull")
    other = pulled.digests()
    assert_nothing_to_do(pulled)
    assert {file for file in home.keys() & other.keys() if home[file] != other[file]} >= {
        "results/scores/scores.parquet",
        "results/tables/table_2.csv",
        "results/figures/figure_2.pdf",
    }
    for branch, files in (("main", home), ("other", other)):
        pulled.git("checkout", "--quiet", branch)
        pulled.dvc("checkout")
        assert pulled.digests() == files
        assert_nothing_to_do(pulled)


# -------------------------------------------------------------------------------------------------- one figure


def restyle(repository: Repository) -> None:
    """Draw figure 6 with larger markers: an edit of its own module."""
    path = repository.path("workflow/gptfluence/paper/figures/figure_6.py")
    text = path.read_text(encoding="utf-8")
    assert "markersize=4" in text
    path.write_text(text.replace("markersize=4", "markersize=7"), encoding="utf-8")


def more_curves(repository: Repository) -> None:
    """Draw two examples a task in figure 2: an edit of params.yaml."""
    repository.edit(lambda params: params["paper"].update(example_curves=2))


def lose(repository: Repository) -> None:
    """Delete one form of figure 6."""
    repository.path("results/figures/figure_6.pdf").unlink()


@pytest.mark.parametrize("engine", ["snakemake", "dvc"])
def test_one_figure_is_one_job(pulled: Repository, engine: str) -> None:
    """A deleted or restyled figure costs one job, and the other engine then has no job left."""
    for change, figure in ((lose, "figure_6"), (more_curves, "figure_2"), (restyle, "figure_6")):
        before, drawn = pulled.inodes(), pulled.digests("results/figures")
        change(pulled)
        said = pulled.snakemake() if engine == "snakemake" else pulled.dvc("repro")
        # The report shows a figure that is drawn otherwise; of one that was lost it has the same.
        assert jobs(said) == {"write_figure": 1} | ({} if change is lose else {"write_report": 1}), said
        after = pulled.inodes()
        assert all(figure in file for file in before if after.get(file) != before[file])
        assert (pulled.digests("results/figures") == drawn) == (change is lose)
        if engine == "snakemake":
            said = pulled.dvc("repro")
            assert jobs(said) == {} and set(stages_run(said)) <= {"plan", f"figures@{figure}", "report"}, said
        assert NOTHING in pulled.snakemake("-n")
    assert pulled.dvc("status").strip() == "Data and pipelines are up to date."


def test_figure_is_redrawn_from_scores_alone(clone: Repository) -> None:
    """With only `dvc pull scores`, a restyled figure is one job of Snakemake."""
    clone.dvc("pull", "scores")
    restyle(clone)
    said = clone.snakemake("results/figures/figure_6.pdf")
    assert jobs(said) == {"write_figure": 1}, said
    assert not clone.shards()


def test_figure_is_redrawn_with_what_it_needs_pulled(clone: Repository, published: Repository) -> None:
    """`dvc repro --pull --allow-missing figures@figure_6` fetches the scores and draws; nothing else is fetched."""
    restyle(clone)
    said = clone.dvc("repro", "--pull", "--allow-missing", "figures@figure_6")
    assert jobs(said) == {"write_figure": 1}, said
    assert stages_run(said) == ["plan", "figures@figure_6"]
    assert {file for file in clone.made() if "figure_6" not in file} <= {"results/scores/scores.parquet"}
    drawn = clone.digests("results/figures")
    assert drawn.keys() == {f"results/figures/figure_6.{form}" for form in ("pdf", "png", "provenance.json")}
    assert drawn["results/figures/figure_6.pdf"] != published.digests()["results/figures/figure_6.pdf"]


def test_unchanged_figure_is_pulled_alone(clone: Repository, published: Repository) -> None:
    """`dvc pull figures@figure_6` fetches the figure and nothing else; asked for again, nothing is drawn."""
    clone.dvc("pull", "figures@figure_6")
    expected = {file: value for file, value in published.digests().items() if "figure_6" in file}
    assert clone.digests() == expected
    cached = [path for path in clone.path(".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert len(cached) == len(expected)
    assert NOTHING in clone.snakemake("-n", "results/figures/figure_6.pdf")


def test_nothing_pulled_is_not_trained(clone: Repository) -> None:
    """Snakemake in a clone without data refuses with the remedy; it does not train what a pull would bring."""
    said = clone.snakemake("dynamics", code=1)
    assert "dvc pull" in said and "Traceback" not in said, said
    assert not clone.shards()


# ------------------------------------------------------------------------------------------------------ damage


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("engine", ["snakemake", "dvc"])
def test_damaged_shards_are_noticed_and_rebuilt(pulled: Repository, engine: str) -> None:
    """Damaged shards are named and trained again to the same bytes, though all that depends on them stands."""
    before, whole = pulled.inodes(), pulled.digests()
    shards = pulled.shards()
    flip(pulled.path(shards[1]))
    truncate(pulled.path(shards[-1]))
    expected = {shards[1], shards[-1]}
    said = pulled.snakemake("-n")
    assert all(f"{shard}: damaged" in said for shard in expected), said
    said = pulled.snakemake() if engine == "snakemake" else pulled.dvc("repro")
    assert all(f"{shard}: damaged" in said for shard in expected), said
    assert jobs(said) == {"train_runs": 2}, said
    assert "2 to train now" in said, said
    assert pulled.digests() == whole
    changed = {file for file, stat in pulled.inodes().items() if before[file] != stat}
    assert {file for file in changed if file.endswith(".parquet")} == expected, changed
    assert not any(file.startswith("results/") for file in changed), changed
    assert_nothing_to_do(pulled)


def test_damage_is_never_recorded(pulled: Repository) -> None:
    """A damaged curriculum or simulator is named and made again by `dvc repro`; dvc.lock stays as it was."""
    whole, lock = pulled.digests(), pulled.path("dvc.lock").read_bytes()
    damaged = [pulled.made("data/curricula")[0], pulled.made("results/simulators")[0]]
    for file in damaged:
        flip(pulled.path(file))
    said = pulled.dvc("repro")
    assert all(f"{file}: damaged" in said for file in damaged), said
    assert "train_runs" not in said, said
    assert pulled.digests() == whole
    assert pulled.path("dvc.lock").read_bytes() == lock
    assert_nothing_to_do(pulled)
