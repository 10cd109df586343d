"""The data card of published dynamics: README.md with the front matter that Hugging Face reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import yaml

from gptfluence.design import Design
from gptfluence.io import read_provenance
from gptfluence.runs import DERIVED, Run

_MEANING = {
    "run_id": "the run",
    "scenario": "fine_tuning (one task) or instruction_tuning (a mixture of tasks)",
    "model": "the GPT that was trained",
    "split": "what the run serves for: fit, validate, held_out, unseen (other training examples), repeat (of a "
    "held-out run, other texts sampled), subset, noisy, corrected, chosen",
    "pool": "part of the tasks that training examples are drawn from",
    "format": "of the prompts: plain or instruction",
    "train_tasks": "tasks that it trained on",
    "test_tasks": "tasks that it was measured on",
    "seed": "its number",
    "steps": "updates",
    "first_step": "the first that was measured: 0 is before the first update",
    "batch": "examples of an update",
    "epochs": "how often each drawn example was trained on",
    "draw": "training examples of each task",
    "learning_rate": "of the first update; it falls linearly to 0; 0: not known",
    "provenance": "JSON: model, optimiser, versions, device, digests of code and data",
    "step": "in dynamics: updates before the measurement; in curricula: the update, from 1",
    "slot": "place in the batch, from 0",
    "task": "the task",
    "part": "pool, unseen_pool or test",
    "example": "id of the example: in dynamics of a test, in curricula of a training example; see examples",
    "loss": "mean over the target's tokens and the end-of-text token, nats",
    "bleu": "sentence BLEU, 0-100; null where a task has none",
    "rouge_l": "ROUGE-L F-measure, 0-1; null where a task has none",
    "prompt": "what is given",
    "target": "what is learned, or asked for",
    "references": "all right answers",
    "facts": "facts that the example states or asks for, in tasks of the made-up world",
}
_LICENCES = {
    "world": ("mit", "Texts of the made-up world: MIT."),
    "hub": (
        "other",
        "Texts stand under the licences of the data sets that they come from (see `source` of each task).",
    ),
    "local": ("other", "Texts come from local files: under the licences that their owners gave them."),
    "own": ("other", "Texts come from local files: under the licences that their owners gave them."),
    "released": (
        "other",
        "Runs and texts are those of GPTDynamics: under the licence that its authors gave it, and those of the tasks.",
    ),
}
_MADE = {
    False: "By GPTfluence: the workflow draws curricula, trains a GPT on each, and measures it before the first update "
    "and after each one.",
    True: "By GPTfluence, from the published data set GPTDynamics; steps count its updates, and it has no step 0. What "
    "it lacks is null.",
}
"""How dynamics were made, by whether they are released ones."""


def write_card(
    path: Path, design: Design, runs: list[Run], counts: dict[str, int], configs: dict[str, pa.Schema]
) -> None:
    """Write README.md; counts: rows of each configuration."""
    kinds = sorted({task["source"]["kind"] for task in design.tasks.values()})
    licences = {_LICENCES[kind] for kind in kinds}
    front = {
        "pretty_name": f"Training dynamics of GPTs with known curricula, scale {design.params.scale}",
        "license": next(iter(licences))[0] if len(licences) == 1 else "other",
        "tags": ["training-dynamics", "training-data-attribution", "gptfluence"],
        "configs": [
            {"config_name": config, "data_files": [{"split": "train", "path": f"data/{config}.parquet"}]}
            | ({"default": True} if config == "dynamics" else {})
            for config in configs
        ],
    }
    groups = Counter((run.scenario, run.model, run.split) for run in runs)
    first = read_provenance(runs[0].shard)
    versions = ", ".join(f"{name} {version}" for name, version in first.get("versions", {}).items())
    ended = sorted({run.split for run in runs} & DERIVED.keys())
    ends = f"; those whose split is {' or '.join(ended)}, before the first and after the last alone" if ended else ""
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {front['pretty_name']}",
        "",
        f"{len(runs)} runs: GPTs trained on known examples in a known order, and measured on every test example at "
        f"every step{ends}.",
        "",
        "```python",
        "import datasets",
        "",
        'dynamics = datasets.load_dataset(FOLDER, "dynamics", split="train")  # or curricula, runs, examples',
        "```",
        "",
        "## Runs",
        "",
        "| scenario | model | split | runs |",
        "| --- | --- | --- | ---: |",
        *(f"| {' | '.join(key)} | {count} |" for key, count in groups.items()),
    ]
    for config, schema in configs.items():
        lines += ["", f"## {config}: {counts[config]:,} rows", "", "| column | type | meaning |", "| --- | --- | --- |"]
        lines += [f"| {field.name} | {_type(field.type)} | {_MEANING[field.name]} |" for field in schema]
    lines += ["", "## Tasks", "", "| task | source | training examples | tests |", "| --- | --- | ---: | ---: |"]
    for name, task in design.tasks.items():
        source = task["source"]
        where = f": {source['path']}, revision {source['revision']}" if source["kind"] == "hub" else ""
        lines.append(f"| {name} | {source['kind']}{where} | {task['pool'] + task['unseen_pool']} | {task['test']} |")
    lines += [
        "",
        "## How it was made",
        "",
        _MADE[design.released is not None],
        f"Code of the dynamics: {first.get('code', 'not recorded')}." + (f" Versions: {versions}." if versions else ""),
        "",
        "## Licence",
        "",
        *sorted({text for _, text in licences}),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _type(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return "string"
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)
