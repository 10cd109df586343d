"""An import keeps what a release holds, in either layout and with all its irregularities, and says what it lacks."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gptfluence.errors import UserError
from gptfluence.io import read_parquet
from gptfluence.released import importing
from gptfluence.released.importing import import_release
from gptfluence.released.members import Source
from released import METRICS, OFFSETS, MadeUp, make_release, make_run, write_preprocessed, write_raw, write_samples

Cells = dict[tuple[str, str, int, int], float]
"""Value by task, metric, test and step."""


def measured(run: MadeUp) -> Cells:
    return {
        (task, METRICS[metric], test, step): float(np.float32(values[step - 1, test]))
        for (task, metric), values in run.values.items()
        for step in range(1, len(values) + 1)
        for test in range(values.shape[1])
    }


def kept(folder: Path, report: dict[str, Any], run: MadeUp) -> tuple[Cells, dict[int, list[int]]]:
    """Return what an import holds of a run, where it is not null."""
    stem = next(stem for stem, found in report["runs"].items() if found["folder"].endswith(run.name))
    cells = {
        (row["task"], metric, row["example"], row["step"]): row[metric]
        for row in read_parquet(folder / f"runs/{stem}.dynamics.parquet").to_pylist()
        for metric in METRICS.values()
        if row[metric] is not None
    }
    batches: dict[int, list[int]] = {}
    for row in read_parquet(folder / f"runs/{stem}.batches.parquet").to_pylist():
        batches.setdefault(row["step"], []).append(row["example"])
    return cells, batches


def described(report: dict[str, Any], run: MadeUp) -> dict[str, Any]:
    return next(found for found in report["runs"].values() if found["folder"].endswith(run.name))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def pack(root: Path, path: Path, order: list[Path] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for file in order or sorted(p for p in root.rglob("*") if p.is_file()):
            tar.add(file, arcname=f"./{file.relative_to(root)}")
    return path


@pytest.mark.parametrize("layout", ["raw", "preprocessed"])
@pytest.mark.parametrize("packed", [False, True])
def test_everything_is_kept_as_it_was(tmp_path: Path, layout: str, packed: bool) -> None:
    runs = make_release(tmp_path / "release", layout)
    source = pack(tmp_path / "release", tmp_path / "r.tar") if packed else tmp_path / "release"
    report = import_release(source, tmp_path / "import", OFFSETS)
    assert len(report["runs"]) == len(runs) == 17
    for run in runs:
        cells, batches = kept(tmp_path / "import", report, run)
        assert cells == measured(run)
        assert batches == dict(enumerate(run.batches, 1))
        found = described(report, run)
        assert (found["first"], found["last"], found["unmeasured"], found["seed"]) == (1, 6, [], run.seed)
    assert {name: found["examples"] for name, found in report["samples"].items()} == {
        "flan test": 7, "flan train": 48, "rte test": 4, "rte train": 24, "webnlg test": 3, "webnlg train": 24,
    }  # fmt: skip
    assert not any(found["differing"] or found["missing"] for found in report["samples"].values())
    texts = {(r["task"], r["part"], r["id"]): r for r in read_parquet(tmp_path / "import/samples.parquet").to_pylist()}
    assert texts["webnlg", "train", 13]["prompt"] == "webnlg train: question 13?\nAnswer:"
    assert texts["flan", "test", 5]["target"] == "word1"  # the second of the second task
    assert "17 runs" in (tmp_path / "import/report.txt").read_text()


def test_both_layouts_and_a_tar_of_them_hold_the_same_numbers(tmp_path: Path) -> None:
    digests = []
    for layout in ("raw", "preprocessed"):
        make_release(tmp_path / layout, layout)
        for source in (tmp_path / layout, pack(tmp_path / layout, tmp_path / f"{layout}.tar")):
            report = import_release(source, tmp_path / "import", OFFSETS)
            name = {Path(run["folder"]).name: run["digest"] for run in report["runs"].values()}
            digests.append(name)
    assert all(one == digests[0] for one in digests)


def test_irregular_preprocessed_runs(tmp_path: Path) -> None:
    run = make_run("webnlg", 1, steps=5)
    place = write_preprocessed(tmp_path / "r", run)
    file = place / "all_loss_trajectory.out"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["loss_trajectory"].insert(2, {"step": 5, "loss": 99.0})  # the later one counts
    del rows[1]["loss_trajectory"][1:3]  # a gap
    rows[2]["loss_trajectory"] = rows[2]["loss_trajectory"][::-1]
    rows[2]["more"] = {"nested": []}
    file.write_text("\n".join([*map(json.dumps, rows), "", '{"id": 1, "loss_traj']))
    batches = place / "train_samples_id.json"
    batches.write_text('{"step": 2, "samples_id": [0, 0], "epoch": 1}\n' + batches.read_text())
    (place / "all_bleu_trajectory.out").write_bytes(b"")
    report = import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
    cells, found = kept(tmp_path / "i", report, run)
    expected = {
        k: v for k, v in measured(run).items() if k[1] != "bleu" and k[1:] not in [("loss", 1, 2), ("loss", 1, 3)]
    }
    assert cells == expected
    assert found == dict(enumerate(run.batches, 1))
    told = described(report, run)
    assert told["empty"] == ["all_bleu_trajectory.out"]
    assert told["unread"] == {"all_loss_trajectory.out": [1, "line 5: not a JSON object"]}
    assert told["tests"]["webnlg"]["gaps"] == {"loss": 2, "rouge_l": 0}
    text = (tmp_path / "i/report.txt").read_text()
    assert (
        "empty files: 1 runs" in text and "values that were not measured: 1 runs" in text and "lines left out" in text
    )


def test_irregular_raw_runs(tmp_path: Path) -> None:
    run = make_run("webnlg", 1, steps=6)
    place = write_raw(tmp_path / "r", run)
    (place / "metric_webnlg/metric_webnlg_checkpoint-3.out").unlink()
    (place / "metric_webnlg/metric_webnlg_checkpoint-4.out").write_bytes(b"")
    log = place / "log.out"
    again = {"loss": 1, "step": 5, "samples_id": [8, 9]}
    log.write_text(log.read_text() + f"7%|#| 1/2 [a]{again}\n{{'loss': 1, 'step': 6, 'samples_id': \n")
    report = import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
    cells, found = kept(tmp_path / "i", report, run)
    assert cells == {key: value for key, value in measured(run).items() if key[3] not in (3, 4)}
    assert found == dict(enumerate(run.batches, 1)) | {5: [8, 9]}
    told = described(report, run)
    assert told["unmeasured"] == [3, 4] and (told["first"], told["last"]) == (1, 6)
    assert told["empty"] == ["metric_webnlg/metric_webnlg_checkpoint-4.out"]
    assert told["unread"]["log.out"][0] == 1
    assert "steps that no test was measured at: 1 runs" in (tmp_path / "i/report.txt").read_text()


def test_preprocessed_files_count_more_than_raw_ones_whatever_comes_first(tmp_path: Path) -> None:
    run, other = make_run("webnlg", 1), make_run("webnlg", 1)
    other.values = {key: values + 1 for key, values in other.values.items()}
    del run.values["webnlg", "bleu"]
    write_raw(tmp_path / "r", other, "runs/webnlg")
    write_preprocessed(tmp_path / "r", run)
    files = sorted(p for p in (tmp_path / "r").rglob("*") if p.is_file())
    for order in (files, files[::-1]):
        report = import_release(pack(tmp_path / "r", tmp_path / "r.tar", order), tmp_path / "i", OFFSETS)
        cells, _ = kept(tmp_path / "i", report, run)
        # BLEU is only there as it was measured.
        assert cells == measured(run) | {k: v for k, v in measured(other).items() if k[1] == "bleu"}
        assert len(report["runs"]) == 1


@pytest.mark.parametrize("layout", ["raw", "preprocessed"])
def test_files_of_runs_may_come_in_any_order_and_twice(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of two files counts, even where the run was put away between them."""
    monkeypatch.setattr(importing, "_OPEN", 1)
    runs = make_release(tmp_path / "r", layout)
    files = sorted(p for p in (tmp_path / "r").rglob("*") if p.is_file())
    order = np.random.default_rng(0).permutation(len(files))[: len(files)]
    path = pack(tmp_path / "r", tmp_path / "r.tar", [files[i] for i in order])
    changed = make_run("rte", 1)
    changed.values["rte", "loss"] = changed.values["rte", "loss"] + 1
    (write_raw if layout == "raw" else write_preprocessed)(tmp_path / "more", changed)
    with tarfile.open(path, "a") as tar:
        for file in sorted(p for p in (tmp_path / "more").rglob("*") if p.is_file()):
            tar.add(file, arcname=f"./{file.relative_to(tmp_path / 'more')}")
    report = import_release(path, tmp_path / "i", OFFSETS)
    for run in [changed, *runs[1:]]:
        assert kept(tmp_path / "i", report, run) == (measured(run), dict(enumerate(run.batches, 1)))


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("after", [1, 26, 55])
def test_an_interrupted_import_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, packed: bool, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_OPEN", 2)
    make_release(tmp_path / "r")
    source = pack(tmp_path / "r", tmp_path / "r.tar") if packed else tmp_path / "r"
    import_release(source, tmp_path / "whole", OFFSETS)
    members = Source.members

    def cut(self: Source) -> Iterator[Any]:
        for number, member in enumerate(members(self)):
            if number == after:
                raise _Interrupted
            yield member

    monkeypatch.setattr(Source, "members", cut)
    with pytest.raises(_Interrupted):
        import_release(source, tmp_path / "i", OFFSETS)
    assert not (tmp_path / "i/report.json").exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "i/runs").glob("*.dynamics.parquet")}
    reads: list[str] = []

    def counted(self: Source) -> Iterator[Any]:
        for member, behind in members(self):

            def read(member: Any = member) -> bytes:
                reads.append(str(member.path))
                return member.read()

            yield member._replace(read=read), behind

    monkeypatch.setattr(Source, "members", counted)
    import_release(source, tmp_path / "i", OFFSETS)
    assert bytes_of(tmp_path / "i") == bytes_of(tmp_path / "whole")
    # What stood was not read again.
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert after == 1 or (before and len(reads) < sum(1 for _ in members(Source(source))))


def test_another_release_or_other_offsets_replace_an_import(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
    once = bytes_of(tmp_path / "i")
    write_preprocessed(tmp_path / "other", make_run("rte", 7))
    write_samples(tmp_path / "other")
    report = import_release(tmp_path / "other", tmp_path / "i", OFFSETS)
    assert [run["seed"] for run in report["runs"].values()] == [7]
    assert len(list((tmp_path / "i/runs").iterdir())) == 2
    import_release(tmp_path / "r", tmp_path / "i", {"rte": 0, "webnlg": 3})
    assert bytes_of(tmp_path / "i") != once
    import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
    assert bytes_of(tmp_path / "i") == once


def test_a_damaged_part_of_an_import_is_read_again(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
    once = bytes_of(tmp_path / "i")
    for what, content in (("dynamics", b"PAR1"), ("batches", b"")):
        next((tmp_path / "i/runs").glob(f"*.{what}.parquet")).write_bytes(content)
    import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
    assert bytes_of(tmp_path / "i") == once


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    make_release(tmp_path / "r")
    (tmp_path / "i").mkdir()
    (tmp_path / "i/mine").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
    assert [p.name for p in (tmp_path / "i").iterdir()] == ["mine"]


def test_a_release_without_runs_is_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "r")
    with pytest.raises(UserError, match="holds no run of the release"):
        import_release(tmp_path / "r", tmp_path / "i", OFFSETS)


def test_ids_and_steps_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "r/runs/rte/output_rte_bs-1_seed-1"
    place.mkdir(parents=True)
    points = [{"step": step, "loss": 1.0} for step in (1, 90_000)]
    rows = [{"id": test, "loss_trajectory": points} for test in range(300)]
    (place / "all_loss_trajectory.out").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="seed-1: steps 1 to 90000 of 300 tests: more than any run has"):
        import_release(tmp_path / "r", tmp_path / "i", OFFSETS)
