"""How fast a release is read, beside the plain way: `json.loads` of each line into dictionaries.

    python benchmarks/released.py [--runs N]

Prints one JSON object a line: name, ours, other, ratio, unit. `ours` is the whole import (read, parsed, put on grids,
written as Parquet), `other` reads and parses alone. Seconds are of the processor; the volume is made up, in the shape
of the published runs: of the mixture 1055 tests at 288 steps, of RTE 277 and WebNLG 178 tests at 96.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from gptfluence.released.importing import import_release

OFFSETS = {"sst2": 0, "rte": 200, "boolq": 477, "webnlg": 677, "wmt16_de_en": 855}
NAME = "output_{}_bs-8_shot-200_sample-128_model-pythia-410m-deduped_lr-5e-07_weight-decay-0.001_epoch-3_seed-{}"


def main() -> None:
    """Measure both layouts, and the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="runs of each layout (default: 40; published: 352)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for layout, write in (("preprocessed", _preprocessed), ("raw", _raw)):
            path = folder / f"{layout}.tar"
            with tarfile.open(path, "w") as tar:
                for seed in range(1, runs + 1):
                    write(tar, seed)
            lines = _megabytes(path)
            ours, peak = _apart(_import, path)
            other, plain_peak = _apart(_plain, path)
            what = f"{layout}, {runs} runs, {lines:.0f} MB of JSON lines"
            _tell(f"import: {what}", lines / ours, lines / other, "MB/s")
            _tell(f"peak memory: {what}", peak, plain_peak, "MB")
            path.unlink()


def _tell(name: str, ours: float, other: float, unit: str) -> None:
    found = {
        "name": name,
        "ours": round(ours, 1),
        "other": round(other, 1),
        "ratio": round(ours / other, 2),
        "unit": unit,
    }
    print(json.dumps(found), flush=True)


def _apart(work: Callable[[Path], None], path: Path) -> tuple[float, float]:
    """Return the processor's seconds of some work in a process of its own, and its peak memory in MB."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(work, path, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def _measure(work: Callable[[Path], None], path: Path, queue: multiprocessing.Queue) -> None:
    began = time.process_time()
    work(path)
    seconds = time.process_time() - began
    queue.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3))


def _import(path: Path) -> None:
    import_release(path, path.with_suffix(""), OFFSETS)


def _plain(path: Path) -> None:
    """Read every line into dictionaries, run by run, as the published code does; a run's are kept until the next."""
    kept: dict[str, list[object]] = {}
    last = ""
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            run = member.name.split("/")[2]
            if run != last:
                kept, last = {}, run
            if file is not None and not member.name.endswith("log.out"):
                kept[member.name] = [json.loads(line) for line in file]


def _megabytes(path: Path) -> float:
    with tarfile.open(path) as tar:
        return sum(member.size for member in tar) / 1e6


def _put(tar: tarfile.TarFile, name: str, content: str) -> None:
    header, data = tarfile.TarInfo(name), content.encode()
    header.size = len(data)
    tar.addfile(header, BytesIO(data))


def _preprocessed(tar: tarfile.TarFile, seed: int) -> None:
    """Put a run of the mixture into a tar."""
    generator, steps, folder = np.random.default_rng(seed), 288, f"runs/flan/{NAME.format('flan', seed)}"
    values = generator.random((1055, steps)).tolist()
    rows = (
        json.dumps({"id": i, "loss_trajectory": [{"step": s, "loss": v} for s, v in enumerate(curve, 1)]}) + "\n"
        for i, curve in enumerate(values)
    )
    _put(tar, f"{folder}/all_loss_trajectory.out", "".join(rows))
    batches = generator.integers(0, 1200, (steps, 8)).tolist()
    rows = (json.dumps({"step": step, "samples_id": batch}) + "\n" for step, batch in enumerate(batches, 1))
    _put(tar, f"{folder}/train_samples_id.json", "".join(rows))


def _raw(tar: tarfile.TarFile, seed: int) -> None:
    """Put runs of WebNLG and RTE into a tar."""
    generator, steps = np.random.default_rng(seed), 96
    for task, kind, names, tests in (
        ("webnlg", "metric", ("loss", "rouge1", "rouge2", "rougeL", "bleu"), 178),
        ("rte", "loss", ("loss",), 277),
    ):
        folder = f"runs/{task}/{NAME.format(task, seed)}"
        batches = generator.integers(0, 200, (steps, 4)).tolist()
        lines = (f"{{'loss': 0.1, 'epoch': 1.0, 'step': {s}, 'samples_id': {b}}}\n" for s, b in enumerate(batches, 1))
        _put(tar, f"{folder}/log.out", "".join(lines))
        for step in range(1, steps + 1):
            values = generator.random((tests, len(names))).tolist()
            rows = (json.dumps({"id": i, **dict(zip(names, row, strict=True))}) + "\n" for i, row in enumerate(values))
            _put(tar, f"{folder}/{kind}_{task}/{kind}_{task}_checkpoint-{step}.out", "".join(rows))


if __name__ == "__main__":
    main()
