"""Which runs exist: one pure function from params.yaml to the run table, and the names of all files.

Nothing parses a file name: a flat `run_id` is looked up in the table. Every file up to the scores carries a digest of
everything that determines it in its name, so a stale one can never be taken for a right one, whatever its time says.
Scores, tables and figures have plain names; `standing` tells whether they are the plan's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from gptfluence.errors import UserError, did_you_mean
from gptfluence.identity import DYNAMICS_CODE, PACKAGE, code_digest
from gptfluence.io import digest, file_digest
from gptfluence.params import AnyModel, Params, ScenarioPlan, setting

SCORES_FILE = "results/scores/scores.parquet"
CURVES_FILE = "results/scores/curves.parquet"
SCORES_FILES = (SCORES_FILE, CURVES_FILE, "results/scores/metrics.json", "results/scores/summary.csv")
TABLES = ("table_1", "table_2", "table_3", "table_4")
TABLE_FORMS = ("csv", "html", "md", "tex")
FIGURES = {"figure_2": ("curves", "example_curves"), "figure_6": ("scores",)}
"""Each figure, and what it is drawn from: files of the scores, and settings of its own."""
FIGURE_FORMS = ("pdf", "png")
PUBLISHED = PACKAGE / "paper" / "published.csv"
LOCAL_TEST_FILES = ("validation.jsonl", "test.jsonl")


@dataclass(frozen=True)
class Run:
    """One GPT trained on one curriculum: a row of the run table."""

    run_id: str
    group: str
    gang: str
    scenario: str
    model: str
    train_tasks: tuple[str, ...]
    test_tasks: tuple[str, ...]
    pool: str  # the part of each task that is drawn from: pool | unseen_pool
    split: str  # fit | validate | held_out | unseen
    seed: int
    draw_seed: int
    order_seed: int
    init_seed: int
    generation_seed: int
    draw: int
    first_example: int  # id of the first example of the part that is drawn from
    pool_size: int
    batch: int
    epochs: int
    steps: int
    learning_rate: float
    hash: str = ""
    curriculum_hash: str = ""

    @property
    def format(self) -> str:
        """Which prompts the run sees: `plain` ones in fine-tuning, `instruction` ones in instruction tuning."""
        return "plain" if self.scenario == "fine_tuning" else "instruction"

    @property
    def shard(self) -> str:
        """Path of the run's shard of dynamics."""
        return f"data/dynamics/{self.run_id}.{self.hash}.parquet"

    @property
    def curriculum(self) -> str:
        """Path of the run's curriculum."""
        return f"data/curricula/{self.run_id}.{self.curriculum_hash}.parquet"

    def row(self) -> dict[str, Any]:
        """Return the run as JSON-able values, with the paths of its files."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {key: list(value) for key, value in fields.items() if isinstance(value, tuple)}
        return fields | lists | {"curriculum": self.curriculum, "shard": self.shard}


@dataclass(frozen=True)
class Group:
    """Runs that one simulator is fitted on: one scenario, one model, one task or the mixture."""

    group: str
    scenario: str
    model: str
    train_tasks: tuple[str, ...]
    test_tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Gang:
    """Runs that one job trains in one process; each keeps a shard of its own."""

    gang: str
    runs: tuple[Run, ...]

    @cached_property
    def manifest(self) -> str:
        """Path of the list of the gang's shards; it stands only when all of them do."""
        return f"data/dynamics/{self.gang}.{digest([run.hash for run in self.runs])}.json"

    @property
    def log(self) -> str:
        """Path of the job's log."""
        return f"logs/dynamics/{Path(self.manifest).stem}.log"


@dataclass(frozen=True, eq=False)  # compared, and cached, by identity
class Design:
    """The plan of one scale."""

    params: Params
    tasks: dict[str, dict[str, Any]]  # task -> what prepare_task needs, and nothing else
    models: dict[str, dict[str, Any]]  # model -> what loads (and for the world's own, makes) it
    runs: dict[str, Run]
    groups: dict[str, Group]
    gangs: dict[str, Gang]

    # --------------------------------------------------------------------------------------------------- files

    def task_file(self, task: str) -> str:
        """Path of a prepared task."""
        return f"data/tasks/{task}.{digest(_without_paths(self.tasks[task]))}.parquet"

    def model_folder(self, model: str) -> str | None:
        """Folder of a model that the pipeline pre-trains; None for a model from elsewhere."""
        spec = self.models[model]
        return f"data/models/{model}.{digest(spec)}" if spec["source"] == "world" else None

    @cached_property
    def features_file(self) -> str:
        """Path of the text features of every example."""
        encoder = self.params.simulators.encoder
        weights = _package_file(encoder.path, None) if encoder.source == "package" else Path(encoder.path)
        content = _folder_digest(weights, "simulators.encoder") if encoder.source != "hub" else encoder.revision
        return f"results/features/text.{digest([self.encode_spec(), content])}.parquet"

    @cache  # noqa: B019 (a design lives as long as its process)
    def simulator_file(self, group: str, metric: str, method: str) -> str:
        """Path of a fitted simulator."""
        hash_ = digest(self.fit_spec(group, metric, method))
        return f"results/simulators/{group}.{metric}.{method}.{hash_}.safetensors"

    @cache  # noqa: B019
    def simulations_file(self, group: str, metric: str) -> str:
        """Path of a group's simulated (and measured) trajectories of one metric."""
        return f"results/simulations/{group}.{metric}.{digest(self.simulate_spec(group, metric))}.parquet"

    @cached_property
    def stages(self) -> dict[str, list[str]]:
        """Every file of every stage of dvc.yaml; of tables and figures each one is a stage."""
        features = [self.features_file] if any(self.needs_features(method) for method in self.methods) else []
        folders = [folder for model in self.models if (folder := self.model_folder(model))]
        stages = {
            "tasks": [self.task_file(task) for task in self.tasks],
            "curricula": [run.curriculum for run in self.runs.values()],
            "dynamics": [
                *folders,
                *(run.shard for run in self.runs.values()),
                *(gang.manifest for gang in self.gangs.values()),
            ],
            "simulators": [
                *features,
                *(self.simulator_file(*pair, method) for pair in self.simulation_pairs() for method in self.methods),
                *(self.simulations_file(*pair) for pair in self.simulation_pairs()),
            ],
            "scores": [*SCORES_FILES, provenance_file(SCORES_FILES[0])],
        }
        for name in TABLES:
            stages[name] = [f"results/tables/{name}.{form}" for form in (*TABLE_FORMS, "provenance.json")]
        for name in FIGURES:
            stages[name] = [f"results/figures/{name}.{form}" for form in (*FIGURE_FORMS, "provenance.json")]
        return stages

    # What each job is given, and where it writes. A spec holds everything that a job's output depends on; what its
    # input files hold is said by their names.

    # --------------------------------------------------------------------------------------------------- specs

    def curricula_spec(self) -> dict[str, Any]:
        """For draw_curricula: the row of every run."""
        return {"runs": [run.row() for run in self.runs.values()]}

    def gang_spec(self, gang: str) -> dict[str, Any]:
        """Everything a job needs to train a gang of runs, as JSON-able values."""
        runs = self.gangs[gang].runs
        model = runs[0].model
        return {
            "model": self.models[model] | {"folder": self.model_folder(model)},
            "optimizer": self.params.dynamics.optimizer.model_dump(),
            "generation": self.params.dynamics.generation.model_dump(),
            "evaluation_tokens": self.params.dynamics.evaluation_tokens,
            "precision": self.params.dynamics.precision,
            "compile": self.params.dynamics.compile,
            "memory_gb": self.params.dynamics.models[model].mem_gb,
            "checkpoint_minutes": self.params.dynamics.checkpoint_minutes,
            "tasks": {task: self.task_file(task) for task in runs[0].train_tasks},
            "metrics": {task: self.params.metrics(task) for task in runs[0].test_tasks},
            "runs": [run.row() for run in runs],
            "code": code_digest(*DYNAMICS_CODE),
        }

    def encode_spec(self) -> dict[str, Any]:
        """For encode_examples: the encoder and the prepared tasks."""
        return {
            "encoder": self.params.simulators.encoder.model_dump(),
            "tasks": {task: self.task_file(task) for task in self.tasks},
            "formats": sorted({run.format for run in self.runs.values()}),
            "code": code_digest("simulators.encode"),
        }

    @cached_property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Every method with its settings: the trivial baselines, then the simulators."""
        trivial: dict[str, dict[str, Any]] = {name: {"kind": name} for name in self.params.baselines.trivial}
        return trivial | {name: m.model_dump() for name, m in self.params.simulators.methods.items()}

    def needs_features(self, method: str) -> bool:
        """Whether a method reads the text features."""
        return self.methods[method]["kind"] == "gptfluence"

    @cache  # noqa: B019
    def simulation_pairs(self) -> list[tuple[str, str]]:
        """Every (group, metric) that is simulated."""
        return [(group.group, metric) for group in self.groups.values() for metric in group.metrics]

    @cache  # noqa: B019
    def _group_spec(self, group: str, metric: str, splits: tuple[str, ...]) -> dict[str, Any]:
        chosen = self.groups[group]
        return {
            "group": group,
            "scenario": chosen.scenario,
            "model": chosen.model,
            "metric": metric,
            "format": chosen.runs[0].format,
            "train_tasks": list(chosen.train_tasks),
            "train_size": self.params.plan.pool + self.params.plan.unseen_pool,
            "test_tasks": [task for task in chosen.test_tasks if metric in self.params.metrics(task)],
            "test_sizes": {task: self.tasks[task]["test"] for task in chosen.test_tasks},
            "runs": [
                {
                    "run_id": run.run_id,
                    "split": run.split,
                    "hash": run.hash,
                    "shard": run.shard,
                    "curriculum": run.curriculum,
                }
                for run in chosen.runs
                if run.split in splits
            ],
        }

    def fit_spec(self, group: str, metric: str, method: str) -> dict[str, Any]:
        """For fit_simulator."""
        return self._group_spec(group, metric, ("fit", "validate")) | {
            "method": method,
            "settings": self.methods[method],
            "features": self.features_file if self.needs_features(method) else None,
            "code": code_digest("simulators.fit"),
        }

    def simulate_spec(self, group: str, metric: str) -> dict[str, Any]:
        """For simulate_runs: the runs that no simulator has seen."""
        return self._group_spec(group, metric, ("held_out", "unseen")) | {
            "simulators": {method: self.simulator_file(group, metric, method) for method in self.methods},
            "code": code_digest("simulators.simulate"),
        }

    @cache  # noqa: B019
    def score_spec(self) -> dict[str, Any]:
        """For score_simulations."""
        setting_of = {"held_out": "seen", "unseen": "unseen_train"}
        groups = {
            group.group: {
                "scenario": group.scenario,
                "model": group.model,
                "runs": {run.run_id: setting_of[run.split] for run in group.runs if run.split in setting_of},
            }
            for group in self.groups.values()
        }
        files = [
            {"group": group, "metric": metric, "path": self.simulations_file(group, metric)}
            for group, metric in self.simulation_pairs()
        ]
        settings = self.params.scores.model_dump()
        return {"groups": groups, "files": files, "code": code_digest("scores.score")} | settings

    def table_spec(self, table: str) -> dict[str, Any]:
        """For write_table."""
        return {
            "table": table,
            "scores": SCORES_FILE,
            "scored": digest(self.score_spec()),
            "scale": self.params.scale,
            "models": self._models_in_order(),
            "published": file_digest(PUBLISHED),
            "code": code_digest("paper.tables", f"paper.tables.{table}"),
        }

    def _models_in_order(self) -> list[str]:
        return [model for model in self.params.dynamics.models if model in self.models]

    def figure_inputs(self, figure: str) -> list[str]:
        """Paths of what a figure is drawn from."""
        files = {"scores": SCORES_FILE, "curves": CURVES_FILE}
        return [files[name] for name in FIGURES[figure] if name in files]

    def figure_spec(self, figure: str) -> dict[str, Any]:
        """For write_figure."""
        known = {"scores": SCORES_FILE, "curves": CURVES_FILE} | self.params.paper.model_dump()
        return {
            "figure": figure,
            **{name: known[name] for name in FIGURES[figure]},
            "scored": digest(self.score_spec()),
            "models": self._models_in_order(),
            "width_in": self.params.paper.figure_width_in,
            "scale": self.params.scale,
            "code": code_digest("paper.figures", f"paper.figures.{figure}"),
        }

    def plain_specs(self) -> dict[str, dict[str, Any]]:
        """Return the spec of every job whose output has a plain name, by its stage."""
        tables = {table: self.table_spec(table) for table in TABLES}
        return {"scores": self.score_spec()} | tables | {figure: self.figure_spec(figure) for figure in FIGURES}


def provenance_file(output: str) -> str:
    """Return the path of what is said of the files that a job with plain-named outputs made, by its first output."""
    return str(Path(output).with_suffix(".provenance.json"))


def make_design(params: Params) -> Design:
    """Return the plan of the chosen scale: a pure function of `params`, the code and the local files it names.

    Raises:
        UserError: a local task file or model folder that the plan needs is missing.
    """
    plan = params.plan
    names = sorted({task for scenario in plan.scenarios.values() for task in scenario.train_tasks})
    tested = {task for scenario in plan.scenarios.values() for task in scenario.test_tasks}
    tasks = {task: _task_spec(params, task, task in tested) for task in names}
    used = sorted({model for scenario in plan.scenarios.values() for model in scenario.models})
    models = {model: _model_spec(params, params.dynamics.models[model]) for model in used}

    runs: dict[str, Run] = {}
    groups: dict[str, Group] = {}
    gangs: dict[str, Gang] = {}
    for scenario, settings in plan.scenarios.items():
        # Fine-tuning trains one GPT per task, instruction tuning one on the mixture of all.
        mixture = scenario == "instruction_tuning"
        units = [("mixture", settings.train_tasks)] if mixture else [(t, (t,)) for t in settings.train_tasks]
        for model in settings.models:
            for unit, train_tasks in units:
                test_tasks = (
                    settings.test_tasks if mixture else tuple(t for t in train_tasks if t in settings.test_tasks)
                )
                if not test_tasks:
                    continue
                group = f"{scenario}-{model}-{unit}"
                members = [
                    _run(params, settings, scenario, model, unit, train_tasks, test_tasks, split, number)
                    for split, number in _numbers(settings)
                ]
                members = [
                    dataclasses.replace(
                        run, hash=_run_hash(params, run, tasks, models[model]), curriculum_hash=_curriculum_hash(run)
                    )
                    for run in members
                ]
                metrics = tuple(
                    m for m in ("loss", "bleu", "rouge_l") if any(m in params.metrics(t) for t in test_tasks)
                )
                groups[group] = Group(group, scenario, model, train_tasks, test_tasks, metrics, tuple(members))
                runs |= {run.run_id: run for run in members}
                for run in members:
                    known = gangs.get(run.gang, Gang(run.gang, ()))
                    gangs[run.gang] = Gang(run.gang, (*known.runs, run))
    unknown = [run_id for run_id in plan.seeds if run_id not in runs]
    if unknown:
        hints = "; ".join(f"'{name}'{did_you_mean(name, runs)}" for name in unknown)
        raise UserError(f"params.yaml: scales.{params.scale}.seeds: no such run: {hints}")
    return Design(params, tasks, models, runs, groups, gangs)


def _numbers(settings: ScenarioPlan) -> list[tuple[str, int]]:
    """Return (split, seed) of each run of a group: seen runs count on from 1, unseen ones anew from 1."""
    runs = settings.runs
    seen = ["fit"] * runs.fit + ["validate"] * runs.validate_ + ["held_out"] * runs.held_out
    return [(split, i + 1) for i, split in enumerate(seen)] + [("unseen", i + 1) for i in range(runs.unseen)]


def _run(
    params: Params,
    settings: ScenarioPlan,
    scenario: str,
    model: str,
    unit: str,
    train_tasks: tuple[str, ...],
    test_tasks: tuple[str, ...],
    split: str,
    number: int,
) -> Run:
    unseen = split == "unseen"
    group = f"{scenario}-{model}-{unit}"
    total = settings.runs.fit + settings.runs.validate_ + settings.runs.held_out
    position = number - 1 + (total if unseen else 0)
    epochs = setting(settings.epochs, model, unit)
    run_id = f"{group}-{'unseen-' if unseen else ''}{number:02d}"
    number = params.plan.seeds.get(run_id, number)
    return Run(
        run_id=run_id,
        group=group,
        gang=f"{group}.gang-{position // params.dynamics.models[model].runs_per_job + 1:03d}",
        scenario=scenario,
        model=model,
        train_tasks=train_tasks,
        test_tasks=test_tasks,
        pool="unseen_pool" if unseen else "pool",
        split=split,
        seed=number,
        draw_seed=params.curricula.draw_seed + number,
        order_seed=params.curricula.order_seed + number,
        init_seed=params.dynamics.init_seed + number,
        generation_seed=params.dynamics.generation_seed + number,
        draw=settings.draw,
        first_example=params.plan.pool if unseen else 0,
        pool_size=params.plan.unseen_pool if unseen else params.plan.pool,
        batch=settings.batch,
        epochs=epochs,
        steps=epochs * settings.draw * len(train_tasks) // settings.batch,
        learning_rate=setting(settings.learning_rate, model, unit),
    )


def _curriculum_hash(run: Run) -> str:
    """Digest everything that a curriculum depends on."""
    keys = ("train_tasks", "pool", "draw_seed", "order_seed", "draw", "first_example", "pool_size", "batch", "epochs")
    return digest({key: getattr(run, key) for key in keys} | {"code": code_digest("curricula.draw")})


def _run_hash(params: Params, run: Run, tasks: dict[str, dict[str, Any]], model: dict[str, Any]) -> str:
    """Digest everything that determines a run's shard; where the run stands in the plan does not."""
    where = {"run_id", "group", "gang", "split", "seed", "hash", "curriculum_hash"}
    return digest(
        {
            "run": {key: value for key, value in dataclasses.asdict(run).items() if key not in where},
            "tasks": {task: _without_paths(tasks[task]) for task in run.train_tasks},
            "metrics": {task: params.metrics(task) for task in run.test_tasks},
            "model": model,
            "optimizer": params.dynamics.optimizer.model_dump(),
            "generation": params.dynamics.generation.model_dump(),
            # What is computed in one go moves the last bits of a loss.
            "evaluation_tokens": params.dynamics.evaluation_tokens,
            "precision": params.dynamics.precision,
            "compile": params.dynamics.compile,
            "code": code_digest(*DYNAMICS_CODE),
        }
    )


def _without_paths(task: dict[str, Any]) -> dict[str, Any]:
    """Leave out where local files stand: their contents decide."""
    source, templates = task["source"], task["templates"]
    if source["kind"] in ("local", "own"):
        source = {key: value for key, value in source.items() if key not in ("train", "test")}
    return task | {"source": source, "templates": templates and templates["digest"]}


# ------------------------------------------------------------------------------------------------------- tasks


def _task_spec(params: Params, task: str, tested: bool) -> dict[str, Any]:
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


def _model_spec(params: Params, model: AnyModel) -> dict[str, Any]:
    """What a model's weights depend on; what a job asks of a machine does not count."""
    spec = model.model_dump(exclude=_MACHINE_KEYS)
    if model.source == "folder":
        spec |= {"weights": _folder_digest(Path(model.path), "dynamics.models")}
    elif model.source == "gguf":
        path = _package_file(model.package, model.path) if model.package else Path(model.path)
        spec |= {"weights": _sampled_digest(path)}
    elif model.source == "world":
        spec |= {
            "pretraining": params.dynamics.pretraining.model_dump(),
            "world_seed": params.tasks.world_seed,
            "code": code_digest("dynamics.pretrain"),
        }
    return spec


def _package_file(package: str, path: str | None) -> Path:
    """Return a file (or, without `path`, a folder below the package named first) without importing the package."""
    name, *inside = Path(package).parts
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"params.yaml names the package '{name}', which is not installed; install it with pip")
    return Path(found.submodule_search_locations[0], *inside, *([path] if path else []))


def _folder_digest(folder: Path, key: str) -> str:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model folder (it has no config.json); params.yaml: {key} names it")
    files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".txt", ".model"))
    return digest({path.name: _sampled_digest(path) for path in files})


def _sampled_digest(path: Path, samples: int = 64, size: int = 1 << 16) -> str:
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
