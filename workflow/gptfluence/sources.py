"""Where tasks and models come from: all that decides what a prepared task or a loaded model holds, as JSON."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from gptfluence.errors import UserError
from gptfluence.identity import code_digest
from gptfluence.io import digest, file_digest
from gptfluence.params import AnyModel, MislabelledPlan, Params, setting

LOCAL_TEST_FILES = ("validation.jsonl", "test.jsonl")


def mislabelled_task(plan: MislabelledPlan) -> str:
    return f"{plan.task}_mislabelled"


def rows_of(task: dict[str, Any], part: str) -> int:
    """Return the rows of a part: of a mislabelled task, each example stands there with either label."""
    return task[part] * (2 if "mislabelled" in task else 1)


def without_paths(task: dict[str, Any]) -> dict[str, Any]:
    """Leave out where local files stand: their contents decide."""
    source, templates = task["source"], task["templates"]
    if source["kind"] in ("local", "own"):
        source = {key: value for key, value in source.items() if key not in ("train", "test")}
    kept = {key: value for key, value in task.items() if key != "released"}
    return kept | {"source": source, "templates": templates and templates["digest"]}


# ------------------------------------------------------------------------------------------------------- tasks


def task_spec(params: Params, task: str, tested: bool) -> dict[str, Any]:
    """What a prepared task depends on: its source, the contents of local files included, sizes and templates."""
    plan, settings = params.plan, params.tasks
    if task in settings.own:
        own = settings.own[task]
        source: dict[str, Any] = {"kind": "own"} | own.model_dump(exclude={"metrics"})
        source |= {"digests": [_existing(own.train, f"tasks.own.{task}.train"),
                               _existing(own.test, f"tasks.own.{task}.test")]}  # fmt: skip
    elif plan.source == "world":
        source = {"kind": "world", "seed": settings.world_seed}
    elif plan.source == "local":
        source = {"kind": "local"} | _local_files(Path(settings.local_folder) / task, tested)
    else:
        if task not in settings.hub:
            raise UserError(f"params.yaml: tasks.hub.{task}: missing, but the plan '{params.scale}' needs it")
        source = {"kind": "hub"} | settings.hub[task].model_dump()
    templates = settings.templates
    return {
        "task": task,
        "source": source,
        "pool": plan.pool,
        "unseen_pool": plan.unseen_pool,
        "test": _test_size(params, task) if tested else 0,
        "templates": templates and {"path": templates, "digest": _existing(templates, "tasks.templates")},
        "template_seed": settings.template_seed,
        "code": code_digest("tasks.prepare", f"tasks.{source['kind']}"),
    }


def mislabelled_task_spec(params: Params, plan: MislabelledPlan) -> dict[str, Any]:
    """What a task with wrong labels depends on: the task that it is made from, and which labels are flipped."""
    wrong = {"of": plan.task, "flipped": plan.flipped, "seed": plan.seed}
    sizes = {"pool": plan.pool, "unseen_pool": 0, "test": plan.test}
    return task_spec(params, plan.task, True) | sizes | {"task": mislabelled_task(plan), "mislabelled": wrong}


def _test_size(params: Params, task: str) -> int:
    test = params.plan.test
    if isinstance(test, dict) and task not in test:
        raise UserError(f"params.yaml: scales.{params.scale}.test: says nothing of task '{task}'")
    return setting(test, task)


def _local_files(folder: Path, tested: bool) -> dict[str, Any]:
    train = folder / "train.jsonl"
    test = next((folder / name for name in LOCAL_TEST_FILES if (folder / name).is_file()), None)
    if tested and test is None and train.is_file():
        raise UserError(f"{folder}: has no {' or '.join(LOCAL_TEST_FILES)}; the task is tested, so it needs one")
    used = test if tested else None
    return {
        "train": str(train),
        "test": used and str(used),
        "digests": [_existing(str(train), "tasks.local_folder"), used and file_digest(used)],
    }


def _existing(path: str, key: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; params.yaml: {key} names it")
    return file_digest(Path(path))


# ------------------------------------------------------------------------------------------------------ models

_MACHINE_KEYS = {"runs_per_job", "gpu", "mem_gb", "runtime_min", "shape"}


def model_spec(params: Params, model: AnyModel) -> dict[str, Any]:
    """What a model's weights depend on; what a job asks of a machine does not count."""
    spec = model.model_dump(exclude=_MACHINE_KEYS)
    if model.source == "folder":
        spec |= {"weights": folder_digest(Path(model.path), "dynamics.models")}
    elif model.source == "gguf":
        path = package_file(model.package, model.path) if model.package else Path(model.path)
        spec |= {"weights": sampled_digest(path)}
    elif model.source == "world":
        spec |= {
            "pretraining": params.dynamics.pretraining.model_dump(),
            "world_seed": params.tasks.world_seed,
            "code": code_digest("dynamics.pretrain"),
        }
    return spec


def package_file(package: str, path: str | None) -> Path:
    """Return a file (or, without `path`, a folder below the package named first) without importing the package."""
    name, *inside = Path(package).parts
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"params.yaml names the package '{name}', which is not installed; install it with pip")
    return Path(found.submodule_search_locations[0], *inside, *([path] if path else []))


def folder_digest(folder: Path, key: str) -> str:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model folder (it has no config.json); params.yaml: {key} names it")
    files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".txt", ".model"))
    return digest({path.name: sampled_digest(path) for path in files})


def sampled_digest(path: Path, samples: int = 64, size: int = 1 << 16) -> str:
    """Digest a file's length and 64 pieces spread over it: planning must not read gigabytes of weights."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; params.yaml: dynamics.models names it")
    length = path.stat().st_size
    if length <= samples * size:
        return file_digest(path)
    with open(path, "rb") as file:
        pieces = []
        for i in range(samples):
            file.seek((length - size) * i // (samples - 1))
            pieces.append(hashlib.sha256(file.read(size)).hexdigest())
    return digest([length, *pieces])
