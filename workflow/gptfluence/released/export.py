"""`gptfluence export`: publishes a scale's dynamics, as a Hugging Face data set or in the layout of GPTDynamics."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gptfluence.bars import Bar
from gptfluence.design import Design
from gptfluence.errors import UserError
from gptfluence.io import atomic_folder, read_parquet, read_provenance
from gptfluence.notes import Notes
from gptfluence.params import ReleasedScale
from gptfluence.released.card import write_card
from gptfluence.released.names import METRICS, MIXTURE
from gptfluence.released.words import FORMS
from gptfluence.runs import Run
from gptfluence.sources import rows_of

log = logging.getLogger("gptfluence")

_WORD = pa.dictionary(pa.int32(), pa.string())
RUNS = pa.schema(
    [(name, pa.string()) for name in ("run_id", "scenario", "model", "split", "pool", "format")]
    + [("train_tasks", pa.list_(pa.string())), ("test_tasks", pa.list_(pa.string()))]
    + [(name, pa.int32()) for name in ("seed", "steps", "first_step", "batch", "epochs", "draw")]
    + [("learning_rate", pa.float64()), ("provenance", pa.string())]
)
CURRICULA = pa.schema(
    [("run_id", _WORD), ("step", pa.int32()), ("slot", pa.int32()), ("task", _WORD), ("example", pa.int32())]
)
DYNAMICS = pa.schema(
    [("run_id", _WORD), ("step", pa.int32()), ("task", _WORD), ("example", pa.int32())]
    + [(name, pa.float32()) for name in ("loss", "bleu", "rouge_l")]
)
EXAMPLES = pa.schema(
    [("task", pa.string()), ("part", pa.string()), ("example", pa.int32()), ("format", pa.string()),
     ("prompt", pa.string()), ("target", pa.string()), ("references", pa.list_(pa.string())),
     ("facts", pa.list_(pa.string()))]
)  # fmt: skip
CONFIGS = {"dynamics": DYNAMICS, "curricula": CURRICULA, "runs": RUNS, "examples": EXAMPLES}
"""The data set's configurations, and the columns of each."""


def export(design: Design, form: str, output: Path) -> list[str]:
    """Publish the dynamics of a scale, all of whose runs must be there.

    Args:
        form: huggingface or released; see `export_huggingface` and `export_released`.
        output: the folder to write, whole or not at all.

    Returns:
        The ids of the runs in it.

    Raises:
        UserError: runs or tasks are missing or damaged, or the folder is there already.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: is there already; name another folder, or remove it")
    runs = list(design.runs.values())
    files = [*(run.shard for run in runs), *(run.curriculum for run in runs), *map(design.task_file, design.tasks)]
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise UserError(
            f"scale {design.params.scale}: {len(missing)} of {len(files)} files are missing, e.g. {missing[0]}. "
            "Run snakemake dynamics mislabels choices, or pull them, first."
        )
    with atomic_folder(output) as folder:
        _FORMS[form](design, runs, folder)
    return [run.run_id for run in runs]


# -------------------------------------------------------------------------------------------------- Hugging Face


def export_huggingface(design: Design, runs: list[Run], folder: Path) -> None:
    """Write a folder that `datasets.load_dataset` reads: README.md, and data/{config}.parquet of each of `CONFIGS`."""
    counts = {
        "dynamics": _write(folder, "dynamics", map(_dynamics, _each(runs))),
        "curricula": _write(folder, "curricula", (_curriculum(run) for run in runs)),
        "runs": _write(folder, "runs", iter([pa.Table.from_pylist([_row(run) for run in runs], RUNS)])),
        "examples": _write(folder, "examples", (_examples(design, task) for task in design.tasks)),
    }
    write_card(folder / "README.md", design, runs, counts, CONFIGS)


def _write(folder: Path, config: str, tables: Iterator[pa.Table]) -> int:
    """Write tables one behind the other, one row group a table, and return how many rows they have."""
    schema, rows = CONFIGS[config], 0
    # Words as plain text in the file's schema: readers of data sets need no dictionaries.
    plain = pa.schema([(f.name, pa.string() if f.type == _WORD else f.type) for f in schema])
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / f"{config}.parquet"
    with pq.ParquetWriter(path, plain, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table.select(schema.names).cast(plain))
            rows += table.num_rows
    return rows


def _dynamics(run: Run) -> pa.Table:
    table = _shard(run)
    return table.add_column(0, "run_id", pa.array([run.run_id] * len(table), pa.string()))


def _curriculum(run: Run) -> pa.Table:
    return read_parquet(run.curriculum, CURRICULA.names)


def _row(run: Run) -> dict[str, Any]:
    """Return a run as a row of `RUNS`; provenance: all that the shard says of how it was made, as JSON."""
    provenance = read_provenance(run.shard)
    found = {name: getattr(run, name) for name in RUNS.names if name not in ("first_step", "provenance")}
    found |= {"train_tasks": list(run.train_tasks), "test_tasks": list(run.test_tasks)}
    kept = {key: value for key, value in provenance.items() if key != "run"}
    return found | {"first_step": getattr(run, "first_step", 0), "provenance": json.dumps(kept, sort_keys=True)}


def _examples(design: Design, task: str) -> pa.Table:
    table = read_parquet(design.task_file(task))
    return table.add_column(0, "task", pa.array([task] * len(table), pa.string()))


def _shard(run: Run) -> pa.Table:
    """Read a run's shard.

    Raises:
        UserError: it is damaged, or of another plan.
    """
    if read_provenance(run.shard).get("hash") != run.hash:
        raise UserError(f"{run.shard}: was made with other settings. Delete it and run snakemake again.")
    return read_parquet(run.shard)


# ------------------------------------------------------------------------------------------------------ released


def export_released(design: Design, runs: list[Run], folder: Path) -> None:
    """Write the layout of GPTDynamics that the published code reads: runs, raw and preprocessed, and their texts.

    Training and test ids are numbered through the tasks of a mixture. The published layout has no step 0, so what is
    measured before the first update is left out. Runs on subsets and on mislabelled, corrected or chosen data are no
    part of it.
    """
    simulated = {name for name, group in design.groups.items() if group.metrics}
    kept = [r for r in runs if r.group in simulated and r.split in ("fit", "validate", "held_out", "unseen")]
    for run in _each(kept):
        _export_run(design, run, folder)
    for group in {run.group: run for run in kept}.values():
        _export_texts(design, group, folder / "gptdynamics")
    settings = {
        "scale": design.params.scale,
        "test_offsets": mixture_offsets(design),
        "left_out": sorted(run.run_id for run in runs if run not in kept),
        "runs": {run.run_id: str(_run_folder(design, run)) for run in kept},
    }
    (folder / "export.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _each(runs: list[Run]) -> Iterator[Run]:
    notes = Notes()
    with Bar("export", len(runs), "runs") as bar:
        for number, run in enumerate(runs):
            bar.to(number)
            if number and notes.due() and not bar.visible:
                log.info("%d of %d runs, %.0f s left", number, len(runs), notes.left(number, len(runs)))
            yield run


def mixture_offsets(design: Design) -> dict[str, int]:
    """Return the first id of each task's tests where those of all tasks of a mixture are numbered through."""
    if isinstance(design.params.plan, ReleasedScale):
        return dict(design.params.plan.test_offsets)
    mixed = [group for group in design.groups.values() if group.scenario == "instruction_tuning"]
    return _offsets({task: _tests(design, group.group, task) for group in mixed[:1] for task in group.test_tasks})


def _tests(design: Design, group: str, task: str) -> int:
    return int(design.group_sizes(group)["test_sizes"][task])


def _offsets(sizes: dict[str, int]) -> dict[str, int]:
    starts = np.cumsum([0, *sizes.values()])[:-1].tolist()
    return dict(zip(sizes, starts, strict=True))


def _run_folder(design: Design, run: Run) -> Path:
    """Return where a run stands, under a name of the published form."""
    mixed = run.scenario == "instruction_tuning"
    task = MIXTURE if mixed else run.train_tasks[0]
    rate = f"{run.learning_rate:g}"
    name = (
        f"output_{task}{'-ood' * (run.split == 'unseen')}_bs-{run.batch}_shot-{run.pool_size}_sample-{run.draw}_"
        f"model-{run.model}_lr-{rate}_epoch-{run.epochs}_seed-{run.seed}"
    )
    return Path("runs") / task / name


def _export_run(design: Design, run: Run, folder: Path) -> None:
    place = folder / _run_folder(design, run)
    place.mkdir(parents=True)
    batches = _batches(design, run)
    # The published reader asks for the word alone, and reads such a line as JSON.
    lines = [repr({"loss": "not recorded", "step": step, "samples_id": b}) for step, b in batches.items()]
    (place / "log.out").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_lines(place / "train_samples_id.json", ({"step": s, "samples_id": b} for s, b in batches.items()))
    table = _shard(run)
    table = table.filter(pc.greater(table["step"], 0))
    mixed = run.scenario == "instruction_tuning"
    offsets = mixture_offsets(design) if mixed else dict.fromkeys(run.test_tasks, 0)
    trajectories: dict[str, list[dict[str, Any]]] = {name: [] for name in METRICS}
    for task in run.test_tasks:
        own = table.filter(pc.equal(table["task"].cast(pa.string()), task))
        own = own.sort_by([("step", "ascending"), ("example", "ascending")])
        steps = np.unique(own["step"].to_numpy())
        examples = np.unique(own["example"].to_numpy())
        grids = {name: own[metric].to_numpy().reshape(len(steps), -1) for name, metric in METRICS.items()}
        measured = {name: grid for name, grid in grids.items() if np.isfinite(grid).any()}
        for name, grid in measured.items():
            for test, curve in zip(examples.tolist(), grid.T, strict=True):
                whole = zip(steps.tolist(), curve.tolist(), strict=True)
                points = [{"step": step, "loss": value} for step, value in whole if np.isfinite(value)]
                trajectories[name].append({"id": offsets[task] + test, "loss_trajectory": points})
        kind = "metric" if len(measured) > 1 else "loss"
        raw = place / f"{kind}_{task}"
        raw.mkdir()
        for i, step in enumerate(steps.tolist()):
            rows = (
                {"id": test} | {name: float(grid[i, j]) for name, grid in measured.items() if np.isfinite(grid[i, j])}
                for j, test in enumerate(examples.tolist())
            )
            rows = (row for row in rows if len(row) > 1)
            _write_lines(raw / f"{kind}_{task}_checkpoint-{step}.out", rows)
    for name, rows in trajectories.items():
        if rows:
            _write_lines(place / f"all_{name}_trajectory.out", iter(sorted(rows, key=lambda row: row["id"])))


def _batches(design: Design, run: Run) -> dict[int, list[int]]:
    """Return the training ids of each step."""
    table = read_parquet(run.curriculum).sort_by([("step", "ascending"), ("slot", "ascending")])
    found: dict[int, list[int]] = {}
    columns = (table[name].to_pylist() for name in ("step", "task", "example"))
    for step, task, example in zip(*columns, strict=True):
        found.setdefault(step, []).append(_train_id(design, run, task, example))
    return found


def _train_id(design: Design, run: Run, task: str, example: int) -> int:
    """Return a training id as published: all tasks' pools one behind the other, and behind them all unseen pools."""
    of_task = design.tasks[task]
    pool, unseen = rows_of(of_task, "pool"), rows_of(of_task, "unseen_pool")
    place, tasks = run.train_tasks.index(task), len(run.train_tasks)
    return place * pool + example if example < pool else tasks * pool + place * unseen + example - pool


def _export_texts(design: Design, run: Run, folder: Path) -> None:
    """Write the examples of a group; where another group of the task has done so, the same is written again."""
    mixed = run.scenario == "instruction_tuning"
    sizes = {task: _tests(design, run.group, task) for task in run.test_tasks}
    offsets = mixture_offsets(design) if mixed else dict.fromkeys(sizes, 0)
    train: list[dict[str, Any]] = []
    for task in run.train_tasks:
        rows = _texts(design, task, run.format, ("pool", "unseen_pool"))
        train += [row | {"id": _train_id(design, run, task, row["id"])} for row in rows]
    tests = [
        row | {"id": offsets[task] + row["id"]}
        for task, size in sizes.items()
        for row in _texts(design, task, run.format, ("test",))[:size]
    ]
    task = MIXTURE if mixed else run.train_tasks[0]
    place = folder / "it_tasks" if mixed else folder / "sft_tasks" / task
    place.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("eval", tests)):
        rows = sorted(rows, key=lambda row: row["id"])
        _write_lines(place / f"{task}_0_{rows[-1]['id']}_{part}.json", iter(rows))


def _texts(design: Design, task: str, form: str, parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a task's examples: id, and input and context as published: the whole text, and the prompt alone."""
    table = read_parquet(design.task_file(task))
    rows = [row for row in table.to_pylist() if row["part"] in parts and row["format"] == form]
    return [
        {"id": row["example"], "input": f"{row['prompt']} {row['target']}".rstrip(), "context": row["prompt"]}
        for row in sorted(rows, key=lambda row: row["example"])
    ]


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


_FORMS = dict(zip(FORMS, (export_huggingface, export_released), strict=True))
