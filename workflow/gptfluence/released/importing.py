"""`gptfluence import`: reads a release once, and keeps what it holds as small files and a report.

A run is kept as soon as another is read, so an import that was interrupted goes on with the first run that is not, and
ends with the same bytes. Memory holds a few runs at a time, however many there are.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from gptfluence.bars import Bar
from gptfluence.errors import UserError
from gptfluence.identity import code_digest
from gptfluence.io import digest, read_provenance, write_json, write_parquet, write_text
from gptfluence.notes import Notes
from gptfluence.released.lines import Unread, read_samples
from gptfluence.released.members import Member, Source
from gptfluence.released.mixed import Text, find_stretches
from gptfluence.released.names import MIXTURE, Samples, run_file, samples_file
from gptfluence.released.recording import Recording, describe, read_recording, stem_of, write_recording
from gptfluence.released.report import REPORT, missing_runs, render

SAMPLES = "samples.parquet"
RUNS = "runs"
_SOURCE = ".source.json"
_OPEN = 8  # runs whose files may come in by turns

SAMPLES_SCHEMA = pa.schema(
    [("task", pa.string()), ("part", pa.string()), ("id", pa.int32()), ("prompt", pa.string()), ("target", pa.string())]
)
"""Columns of samples.parquet: task (or flan), part (train or test), id as in the release, and the text."""

log = logging.getLogger("gptfluence")


def import_release(path: Path, folder: Path, test_offsets: Mapping[str, int]) -> dict[str, Any]:
    """Read a release into a folder: runs/*.parquet, samples.parquet, report.json and report.txt.

    Args:
        path: the release's tar, or the folder that it was unpacked to; raw or preprocessed runs, or both.
        folder: where to; what an import of another release left there is replaced.
        test_offsets: first id of each task's tests in trajectories of the mixture.

    Returns:
        The report; see `report.render`.

    Raises:
        UserError: there is no release, it is damaged, or it holds no run.
    """
    source = Source(path)
    _begin(source, folder, dict(test_offsets))
    importer = _Importer(source, folder, test_offsets)
    importer.read()
    if not importer.stems:
        raise UserError(
            f"{path}: holds no run of the release: no train_samples_id.json, all_<metric>_trajectory.out or log.out"
        )
    report = importer.report()
    report["missing"] = missing_runs(report)
    write_text(folder / REPORT.with_suffix(".txt"), render(report))
    write_json(folder / REPORT, report)
    return report


def _begin(source: Source, folder: Path, test_offsets: dict[str, int]) -> None:
    """Remove what is of another source, of other options or code, or not known to be of this one."""
    made_by = {"source": source.signature, "test_offsets": test_offsets, "code": code_digest("released.importing")}
    try:
        same = json.loads((folder / _SOURCE).read_text(encoding="utf-8")) == made_by
    except (OSError, ValueError):
        same = False
    if not same:
        if folder.exists() and any(folder.iterdir()) and not (folder / _SOURCE).exists():
            raise UserError(f"{folder}: holds something else; name another folder for the import")
        shutil.rmtree(folder / RUNS, ignore_errors=True)
        for name in (SAMPLES, REPORT, REPORT.with_suffix(".txt")):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / _SOURCE, made_by)
    (folder / RUNS).mkdir(parents=True, exist_ok=True)


class _Importer:
    """One import.

    Attributes:
        stems: of every run that was met, by its folder in the release.
    """

    def __init__(self, source: Source, folder: Path, test_offsets: Mapping[str, int]) -> None:
        self._source, self._folder, self._test_offsets = source, folder, test_offsets
        self._open: dict[PurePosixPath, Recording] = {}
        self._kept = self._kept_before()  # place of the last file that is in a kept run
        self._samples: dict[str, tuple[Samples, list[tuple[int, str, str]]]] = {}
        self._unread: dict[str, list[Any]] = {}
        self._empty: set[str] = set()
        self._others: Counter[str] = Counter()
        self._examples_of_others: dict[str, str] = {}
        self.stems: dict[PurePosixPath, Path] = {}

    def _kept_before(self) -> dict[PurePosixPath, int]:
        """Return what an interrupted import has kept; a damaged file is read again."""
        kept = {}
        for path in sorted((self._folder / RUNS).glob("*.dynamics.parquet")):
            try:
                told = read_provenance(path)
                read_recording(path.with_name(path.name.removesuffix(".dynamics.parquet")), {})
                kept[PurePosixPath(told["folder"])] = told["place"]
            except UserError:
                path.unlink()
        if kept:
            log.info("goes on: %d runs were read before", len(kept))
        return kept

    def read(self) -> None:
        """Read every file of the source."""
        notes = Notes()
        with Bar("import", self._source.size, "B") as bar:
            for member, behind in self._source.members():
                self._take(member)
                bar.to(behind)
                if notes.due() and not bar.visible:
                    share = behind / max(self._source.size, 1)
                    log.info("%3.0f %%, %d runs, %.0f MB/s, %.0f s left", 100 * share, len(self.stems),
                             behind / 1e6 / notes.passed(), notes.left(behind, self._source.size))  # fmt: skip
        for recording in self._open.values():
            write_recording(recording, self.stems[recording.folder])
        self._open.clear()

    def _take(self, member: Member) -> None:
        if found := run_file(member.path):
            folder, kind = found
            self.stems.setdefault(folder, self._folder / RUNS / stem_of(folder))
            if member.place > (self._open[folder].place if folder in self._open else self._kept.get(folder, -1)):
                self._recording(folder).add(member.path, kind, member.read(), member.place)
        elif samples := samples_file(member.path):
            self._take_samples(member, samples)
        else:
            self._others[member.path.suffix or member.path.name] += 1
            self._examples_of_others.setdefault(member.path.suffix or member.path.name, str(member.path))

    def _recording(self, folder: PurePosixPath) -> Recording:
        """Return the run of a folder, and close the one that was longest not asked for, if there are too many."""
        recording = self._open.pop(folder, None)
        if recording is None:
            if len(self._open) >= _OPEN:
                oldest = next(iter(self._open))
                closed = self._open.pop(oldest)
                write_recording(closed, self.stems[oldest])
                self._kept[oldest] = closed.place
            known = folder in self._kept
            recording = (
                read_recording(self.stems[folder], self._test_offsets)
                if known
                else Recording(folder, self._test_offsets)
            )
        self._open[folder] = recording
        return recording

    def _take_samples(self, member: Member, samples: Samples) -> None:
        name, content, unread = str(member.path), member.read(), Unread()
        self._empty.discard(name)
        self._unread.pop(name, None)
        if not content.strip():
            self._empty.add(name)
            return
        rows = read_samples(content, unread)
        if rows and samples.first and min(example for example, _, _ in rows) == 0:
            # Numbered from 0, though the name says that they are others.
            rows = [(example + samples.first, prompt, target) for example, prompt, target in rows]
        self._samples[name] = (samples, rows)
        if unread.count:
            self._unread[name] = [unread.count, unread.first]

    def report(self) -> dict[str, Any]:
        """Write the examples, and return what was found."""
        texts, samples = self._texts()
        self._write_samples(texts)
        mixture = texts.get((MIXTURE, "train"), {})
        tasks = sorted(task for task, part in texts if part == "train" and task != MIXTURE)
        mixed = {task: find_stretches(texts[task, "train"], mixture) for task in tasks}
        return {
            "source": {"name": self._source.path.name, "bytes": self._source.size},
            "test_offsets": dict(self._test_offsets),
            "samples": samples,
            "mixed": {task: [list(stretch) for stretch in stretches] for task, stretches in mixed.items()},
            "runs": {stem.name: describe(stem) for _, stem in sorted(self.stems.items())},
            "empty": sorted(self._empty),
            "unread": dict(sorted(self._unread.items())),
            "refused": dict(sorted(self._source.refused.items())[:1000]),
            "others": {kind: [n, self._examples_of_others[kind]] for kind, n in sorted(self._others.items())[:100]},
        }  # fmt: skip

    def _texts(self) -> tuple[dict[tuple[str, str], dict[int, Text]], dict[str, Any]]:
        """Put the examples of all files together: of one id that of the file with the most examples counts.

        Returns:
            Prompt and target by task and part, and by id; and what was found of each task and part.
        """
        whole: dict[tuple[str, str], dict[int, Text]] = {}
        found: dict[str, dict[str, Any]] = {}
        for name, (samples, rows) in sorted(self._samples.items(), key=lambda item: (len(item[1][1]), item[0])):
            texts = whole.setdefault((samples.task, samples.part), {})
            told = found.setdefault(f"{samples.task} {samples.part}", {"files": [], "differing": 0})
            told["files"].append(name)
            for example, prompt, target in rows:
                told["differing"] += texts.get(example, (prompt, target)) != (prompt, target)
                texts[example] = (prompt, target)
        for (task, part), texts in whole.items():
            missing = sorted(set(range(max(texts, default=-1) + 1)) - texts.keys())
            found[f"{task} {part}"] |= {"examples": len(texts), "missing": missing}
        return whole, dict(sorted(found.items()))

    def _write_samples(self, whole: dict[tuple[str, str], dict[int, Text]]) -> None:
        rows = [
            {"task": task, "part": part, "id": example, "prompt": texts[example][0], "target": texts[example][1]}
            for (task, part), texts in sorted(whole.items())
            for example in sorted(texts)
        ]
        write_parquet(self._folder / SAMPLES, pa.Table.from_pylist(rows, SAMPLES_SCHEMA), {"samples": digest(rows)})
