"""The plan: what params.yaml asks for, the names of all files, and what each job is given.

Nothing parses a file name: a flat `run_id` is looked up in the table. Every file up to the scores carries a digest of
everything that determines it in its name, so a stale one can never be taken for a right one, whatever its time says.
Scores, tables and figures have plain names; `standing` tells whether they are the plan's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from gptfluence.hyperparameters import hyperparameters
from gptfluence.identity import DYNAMICS_CODE, PACKAGE, code_digest
from gptfluence.io import digest, file_digest
from gptfluence.paper.contents import CURVES
from gptfluence.params import ChoicesPlan, MislabelledPlan, Model, ModelEncoder, Params, ReleasedScale, replaced
from gptfluence.released.mixed import place
from gptfluence.released.runs import ReleasedRun, make_released
from gptfluence.runs import (
    DERIVED,
    SAMPLED,
    SCHEDULED,
    Gang,
    Group,
    Run,
    chosen_runs,
    corrected_runs,
    make_gangs,
    make_groups,
    measured_metrics,
)
from gptfluence.scores.words import OWN_STEPS
from gptfluence.sources import (
    folder_digest,
    mislabelled_task,
    mislabelled_task_spec,
    model_spec,
    package_file,
    rows_of,
    task_spec,
    without_paths,
)
from gptfluence.words import POOLED, PREDICTED_CURVE, TIME_CURVE

SCORES_FILE = "results/scores/scores.parquet"
CURVES_FILE = "results/scores/curves.parquet"
SCORES_FILES = (SCORES_FILE, CURVES_FILE, "results/scores/metrics.json", "results/scores/summary.csv")
ATTRIBUTION_FILE = "results/scores/attribution.parquet"
SIMULATORS_FILE = "results/scores/simulators.parquet"
MISLABELS_FILE = "results/scores/mislabels.parquet"
UNSEEN_CURVES_FILE = "results/scores/unseen_curves.parquet"
CHOICES_FILE = "results/scores/choices.parquet"
CONVERGENCE_FILE = "results/scores/convergence.parquet"
COSTS_FILE = "results/scores/costs.parquet"
SCORED = {
    "scores": SCORES_FILE,
    "curves": CURVES_FILE,
    "simulators": SIMULATORS_FILE,
    "unseen_curves": UNSEEN_CURVES_FILE,
    "attribution": ATTRIBUTION_FILE,
    "mislabels": MISLABELS_FILE,
    "choices": CHOICES_FILE,
    "convergence": CONVERGENCE_FILE,
    "costs": COSTS_FILE,
}
"""Files of the scores, by what tables and figures call them."""
TABLES = {
    **dict.fromkeys(("table_1", "table_2", "table_3", "table_4"), ("scores",)),
    **dict.fromkeys(("table_5", "table_6", "table_7", "table_8", "table_9"), ("hyperparameters",)),
    "table_10": ("simulators", "variants"),
    **dict.fromkeys(("table_11", "table_12"), ("scores", "simulators")),
    "table_13": ("costs",),
    "table_attribution": ("attribution", "mislabels"),
    "table_simulators": ("simulators",),
    "table_choices": ("choices",),
}
"""Each table, and what it is made from: files of the scores, and parts of the plan (see `Design.parts`)."""
TABLE_FORMS = ("csv", "html", "md", "tex")
FIGURES = {
    "figure_1": (),
    **dict.fromkeys(("figure_3", "figure_4", "figure_5"), ("simulators", "variants")),
    "figure_6": ("scores",),
    "figure_7": ("mislabels",),
    "figure_9": ("convergence",),
    **{name: (contents.file, "contents", "example_curves") for name, contents in CURVES.items()},
    "figure_attribution": ("attribution", "mislabels"),
    "figure_simulators": ("simulators",),
    "figure_choices": ("choices",),
}
"""Each figure, and what it is drawn from: files of the scores, and parts of the plan (see `Design.parts`)."""
FIGURE_FORMS = ("pdf", "png")
SUBJECTS = {
    "overview": ("figure_1",),
    "simulation_instruction_tuning": ("table_1", "table_3"),
    "simulation_fine_tuning": ("table_2", "table_4"),
    "hyperparameters": ("table_5", "table_6", "table_7", "table_8", "table_9"),
    "checkpoint_intervals": ("figure_3",),
    "markov_order": ("table_10", "figure_4"),
    "encoders": ("figure_5",),
    "model_sizes": ("figure_6",),
    "wrong_labels": ("figure_7",),
    "convergence": ("figure_9",),
    "example_curves": ("figure_2", *(f"figure_{number}" for number in range(10, 19))),
    "unseen_data": ("table_11", "table_12", "figure_8", *(f"figure_{number}" for number in range(19, 31))),
    "latency": ("table_13",),
}
"""The paper's tables and figures by what they are about."""
MODULES = {
    **dict.fromkeys(CURVES, "curves"),
    **dict.fromkeys(("figure_3", "figure_4"), "ablations"),
    **dict.fromkeys(("table_5", "table_6", "table_7", "table_8", "table_9"), "hyperparameters"),
    **dict.fromkeys(("table_11", "table_12"), "unseen"),
}
"""The modules of items that share one; others have one of their own name."""
REPLAYED = ("held_out", "unseen")
"""Splits of the runs that are replayed: those that are simulated."""
FITTED = ("fit", "validate")
"""Splits of the runs that are replayed besides, in scenarios whose `ceiling` is asked for."""
_FITTED = ".fitted"
"""Ends, in the names of jobs, those that replay the runs of a gang that are fitted on."""
GRADIENT_RESPONSE = "gradient_response"
"""Kind of the simulators that are made of gradient kernels."""
ANY_LENGTH = ("persistence", "global_ar1", "gptfluence")
"""Kinds of simulators that can roll out runs of another length and other batches, and tests that they do not know."""
RANKING_METHOD = "gptfluence"
"""The simulator whose self factors rank examples that may be mislabelled."""
PUBLISHED = PACKAGE / "paper" / "published.csv"
REPORT_FILE = "results/report.html"
REPORT_LOOK = tuple(PACKAGE / "report" / name for name in ("report.html.jinja", "report.css"))
"""What the report is made of beside code."""
PAGE_FILE = "results/whatif.html"
PAGE_LOOK = tuple(PACKAGE / "page" / name for name in ("app.js", "app.css", "page.html"))
"""What the what-if page is made of beside code and data; app.js and app.css are bundled from workflow/page."""


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

    @cache  # noqa: B019
    def task_file(self, task: str) -> str:
        """Path of a prepared task."""
        return f"data/tasks/{task}.{digest(without_paths(self.tasks[task]))}.parquet"

    def model_folder(self, model: str) -> str | None:
        """Folder of a model that the pipeline pre-trains; None for a model from elsewhere."""
        spec = self.models[model]
        return f"data/models/{model}.{digest(spec)}" if spec["source"] == "world" else None

    @cache  # noqa: B019
    def text_file(self, encoder: str) -> str:
        """Path of the text features of every example.

        Args:
            encoder: see `encoder_of`.
        """
        spec = self.encode_spec(encoder)
        used = spec["encoder"]
        content = None  # a model of the pipeline's own is named after its content
        if used["source"] == "hub":
            content = used["revision"]
        elif not spec["model"]:
            weights = package_file(used["path"], None) if used["source"] == "package" else Path(used["path"])
            content = folder_digest(weights, "simulators.encoder")
        return f"results/features/text.{encoder}.{digest([spec, content])}.parquet"

    def gradients_file(self, model: str) -> str:
        """Path of the gradient sketches of every example, taken from a model before it is trained."""
        return f"results/features/gradients.{model}.{digest(self.sketch_spec(model))}.parquet"

    def table_file(self, group: str) -> str:
        """Path of the attribution scores of every training and test example of a group."""
        return f"results/attribution/tables/{group}.{digest(self.attribute_spec(group))}.parquet"

    def seconds_file(self, group: str) -> str:
        """Path of what each method of `table_file` took."""
        return str(Path(self.table_file(group)).with_suffix(".seconds.json"))

    def kernels_file(self, group: str) -> str:
        """Path of the gradient kernels of every training and test example of a group."""
        return f"results/attribution/kernels/{group}.{digest(self.kernels_spec(group))}.safetensors"

    @cache  # noqa: B019
    def replays_file(self, job: str) -> str:
        """Path of what gradients say of each step of runs of a gang; see `replay_jobs`."""
        return f"results/attribution/replays/{job}.{digest(self.replay_spec(job))}.parquet"

    @cached_property
    def ranking_file(self) -> str | None:
        """Path of the orders in which labels are checked; None in a plan without mislabelled data."""
        return (
            f"data/mislabels/rankings/{self.mislabelled_group}.{digest(self.rank_spec())}.parquet"
            if self.mislabelled_group
            else None
        )

    def choices_file(self, group: str) -> str:
        """Path of the curricula that are chosen for a group."""
        return f"data/choices/chosen/{group}.{digest(self.choose_spec(group))}.parquet"

    @cache  # noqa: B019 (a design lives as long as its process)
    def simulator_file(self, group: str, metric: str, method: str) -> str:
        """Path of a fitted simulator."""
        hash_ = digest(self.fit_spec(group, metric, method))
        folder = "refits" if method.endswith(POOLED) else "simulators"
        return f"results/{folder}/{group}.{metric}.{method}.{hash_}.safetensors"

    @cache  # noqa: B019
    def simulations_file(self, group: str, metric: str) -> str:
        """Path of a group's simulated (and measured) trajectories of one metric."""
        return f"results/simulations/{group}.{metric}.{digest(self.simulate_spec(group, metric))}.parquet"

    @cache  # noqa: B019
    def refits_file(self, group: str, metric: str) -> str:
        """Path of what simulators score that are fitted again: as variants, on fewer runs, without some tests."""
        return f"results/refits/{group}.{metric}.{digest(self.refit_spec(group, metric))}.parquet"

    def refit_curves_file(self, group: str, metric: str) -> str:
        """Path of what such refits simulate of unseen tests."""
        return str(Path(self.refits_file(group, metric)).with_suffix(".curves.parquet"))

    @cached_property
    def stages(self) -> dict[str, list[str]]:
        """Every file of every stage of dvc.yaml; of tables and figures each one is a stage."""
        features = {
            file for name in self.groups for method in self._fitted(name) if (file := self.features_of(name, method))
        } | ({self.text_file("text")} if self._text_is_read() else set())
        folders = [folder for model in self.models if (folder := self.model_folder(model))]
        stages = {
            "tasks": [self.task_file(task) for task in self.tasks],
            "curricula": [run.curriculum for run in self.drawn_runs()],
            "dynamics": [
                *folders,
                *(run.shard for run in self.drawn_runs()),
                *(gang.manifest for gang in self.gangs.values() if gang.runs[0].split not in DERIVED),
            ],
            "features": sorted(features),
            "attribution": [
                *(
                    file
                    for group in self.attributed_groups()
                    for file in (self.table_file(group), self.seconds_file(group))
                ),
                *(self.kernels_file(group) for group in self.kernel_groups()),
                *(self.replays_file(job) for job in self.replay_jobs()),
            ],
            "simulators": [
                *(self.simulator_file(*key) for key in self.fits()),
                *(self.simulations_file(*pair) for pair in self.simulation_pairs()),
            ],
            "refits": [
                *(self.simulator_file(*key) for key in self.pooled_fits()),
                *(
                    file
                    for pair in self.simulation_pairs()
                    for file in (self.refits_file(*pair), self.refit_curves_file(*pair))
                ),
            ],
            "mislabels": self._mislabels_files(),
            "choices": [
                *(self.choices_file(group) for group in self.choice_groups()),
                *self._derived_files("chosen"),
            ],
            "scores": [*SCORES_FILES, provenance_file(SCORES_FILES[0])],
            "scores_attribution": [ATTRIBUTION_FILE, provenance_file(ATTRIBUTION_FILE)],
            "scores_simulators": [SIMULATORS_FILE, UNSEEN_CURVES_FILE, provenance_file(SIMULATORS_FILE)],
            "scores_mislabels": [MISLABELS_FILE, provenance_file(MISLABELS_FILE)],
            "scores_choices": [CHOICES_FILE, provenance_file(CHOICES_FILE)],
            "scores_convergence": [CONVERGENCE_FILE, provenance_file(CONVERGENCE_FILE)],
            "scores_costs": [COSTS_FILE, provenance_file(COSTS_FILE)],
        }
        for name in TABLES:
            stages[name] = [f"results/tables/{name}.{form}" for form in (*TABLE_FORMS, "provenance.json")]
        for name in FIGURES:
            stages[name] = [f"results/figures/{name}.{form}" for form in (*FIGURE_FORMS, "provenance.json")]
        stages["page"] = [PAGE_FILE, provenance_file(PAGE_FILE)]
        stages["report"] = [REPORT_FILE, provenance_file(REPORT_FILE)]
        return stages

    def _text_is_read(self) -> bool:
        """Whether an attribution method compares texts by their features."""
        return "encoder_cosine" in self.params.attribution.methods and bool(self.attributed_groups())

    def _mislabels_files(self) -> list[str]:
        return [*([self.ranking_file] if self.ranking_file else []), *self._derived_files("corrected")]

    def _derived_files(self, split: str) -> list[str]:
        """Return curricula, shards and manifests of the runs of a split whose curricula are `DERIVED`."""
        runs = self.derived_runs(split)
        manifests = [self.gangs[gang].manifest for gang in dict.fromkeys(run.gang for run in runs)]
        return [*(run.curriculum for run in runs), *(run.shard for run in runs), *manifests]

    # --------------------------------------------------------------------------------------------------- parts

    @property
    def released(self) -> str | None:
        """Folder of an import, where the runs are released ones; None where the pipeline trains them."""
        return self.params.plan.folder if isinstance(self.params.plan, ReleasedScale) else None

    def machine(self, model: str) -> Model:
        """What jobs with a model ask of a machine; next to nothing where it is trained elsewhere."""
        return Model(max_length=16, runtime_min=1) if self.released else self.params.dynamics.models[model]

    def drawn_runs(self) -> list[Run]:
        """Every run whose curriculum is drawn: all but those on corrected labels and on chosen data."""
        return [run for run in self.runs.values() if run.split not in DERIVED]

    def derived_runs(self, split: str) -> list[Run]:
        """Every run of a split whose curricula are `DERIVED`."""
        return [run for run in self.runs.values() if run.split == split]

    @cached_property
    def mislabelled_group(self) -> str | None:
        """The group of mislabelled data, if the plan has one."""
        noisy = [run.group for run in self.runs.values() if run.split == "noisy"]
        return noisy[0] if noisy else None

    def judged_groups(self) -> list[str]:
        """Every group whose attribution scores are judged: those with retrainings on subsets."""
        return [name for name, group in self.groups.items() if any(run.split == "subset" for run in group.runs)]

    def choice_groups(self) -> list[str]:
        """Every group that training data is chosen for."""
        plan = self.params.plan.choices
        return [f"fine_tuning-{plan.model}-{task}" for task in plan.tasks] if plan else []

    @cache  # noqa: B019
    def attributed_groups(self) -> list[str]:
        """Every group that has a table of attribution scores: it is judged, or a choice or simulator is made of it."""
        additive = any(method["kind"] == "additive" for method in self.methods.values())
        plan = self.params.plan.choices
        needed = self.judged_groups() + (self.choice_groups() if plan and plan.scores else [])
        return [name for name, group in self.groups.items() if name in needed or (additive and group.metrics)]

    @cache  # noqa: B019
    def kernel_groups(self) -> list[str]:
        """Every group that has gradient kernels: a simulator is made of them."""
        needed = any(method["kind"] == GRADIENT_RESPONSE for method in self.methods.values())
        return [name for name, group in self.groups.items() if needed and group.metrics]

    @cache  # noqa: B019
    def replayed_gangs(self) -> list[str]:
        """Every gang with held-out or unseen runs."""
        if not self.params.attribution.replays or self.released:
            return []
        return [name for name, gang in self.gangs.items() if any(run.split in REPLAYED for run in gang.runs)]

    @cache  # noqa: B019
    def fitted_gangs(self) -> list[str]:
        """Every gang with runs that simulators are fitted on, of scenarios whose ceiling is asked for."""
        if self.released:
            return []
        asked = {name for name, plan in self.params.plan.scenarios.items() if plan.ceiling}
        return [
            name
            for name, gang in self.gangs.items()
            if any(
                run.scenario in asked and run.split in FITTED and self.groups[run.group].metrics for run in gang.runs
            )
        ]

    def replay_jobs(self) -> list[str]:
        """Every gang of which runs are replayed; behind the name of a gang `.fitted` stands for its runs that are."""
        return [*self.replayed_gangs(), *(f"{gang}{_FITTED}" for gang in self.fitted_gangs())]

    def replays_of(self, group: str) -> list[str]:
        """Paths of the replays of a group's held-out and unseen runs."""
        gangs = dict.fromkeys(run.gang for run in self.groups[group].runs)
        return [self.replays_file(gang) for gang in gangs if gang in self.replayed_gangs()]

    def own_steps_of(self, group: str) -> list[str]:
        """Paths of the replays of all of a group's runs; none where its ceiling is not asked for."""
        gangs = dict.fromkeys(run.gang for run in self.groups[group].runs)
        fitted = [self.replays_file(f"{gang}{_FITTED}") for gang in gangs if gang in self.fitted_gangs()]
        return [*self.replays_of(group), *fitted] if fitted else []

    def gang_of(self, job: str) -> Gang:
        """Return the gang of one of `replay_jobs`, or of its name."""
        return self.gangs[job.removesuffix(_FITTED)]

    @cache  # noqa: B019
    def fits(self) -> list[tuple[str, str, str]]:
        """Every (group, metric, method) that is fitted."""
        fits = [(*pair, method) for pair in self.simulation_pairs() for method in self.methods]
        return fits + ([(self.mislabelled_group, "loss", RANKING_METHOD)] if self.mislabelled_group else [])

    @cache  # noqa: B019
    def pooled_fits(self) -> list[tuple[str, str, str]]:
        """Every (group, metric, method) that is fitted on the runs of several schedules at once."""
        return [
            (group, metric, method + POOLED)
            for group, metric in self.simulation_pairs()
            if metric == "loss" and self._scheduled(group, ("fit", "validate"))
            for method in self.params.scores.schedules.methods
        ]

    def methods_of(self, group: str) -> list[str]:
        """Return the methods that are fitted on a group."""
        return [method for name, _, method in self.fits() if name == group]

    # What each job is given, and where it writes. A spec holds everything that a job's output depends on; what its
    # input files hold is said by their names.

    # --------------------------------------------------------------------------------------------------- specs

    def curricula_spec(self) -> dict[str, Any]:
        """For draw_curricula: the row of every run."""
        spec = {"runs": [run.row() for run in self.drawn_runs()]}
        return spec | {"released": self.released, "code": code_digest("released.stages")} if self.released else spec

    def gang_spec(self, gang: str) -> dict[str, Any]:
        """Everything a job needs to train a gang of runs, as JSON-able values."""
        runs = self.gangs[gang].runs
        model = runs[0].model
        if self.released:
            return {
                "released": self.released,
                "model": self.models[model],
                **{"optimizer": None, "generation": None, "tasks": {}},  # not known, and not looked at
                "runs": [run.row() for run in runs],
                "code": code_digest("released.stages"),
            }
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
            "metrics": {task: measured_metrics(self.params, runs[0], task) for task in runs[0].test_tasks},
            "runs": [run.row() for run in runs],
            "code": code_digest(*DYNAMICS_CODE),
        }

    def _trained_spec(self, runs: list[Run]) -> dict[str, Any]:
        """Return what trains some runs of a gang again, without what changes nothing in them."""
        machine = ("memory_gb", "checkpoint_minutes")
        spec = {key: value for key, value in self.gang_spec(runs[0].gang).items() if key not in machine}
        rows = [{key: value for key, value in run.row().items() if key != "gang"} for run in runs]
        return spec | {"runs": rows}

    def group_sizes(self, group: str) -> dict[str, Any]:
        """Return how many training examples a task of a group has, and how many tests each."""
        return self._sizes(self.groups[group])

    def _sizes(self, group: Group) -> dict[str, Any]:
        first = self.tasks[group.train_tasks[0]]
        return {
            "train_size": rows_of(first, "pool") + rows_of(first, "unseen_pool"),
            "test_sizes": group.tests or {task: rows_of(self.tasks[task], "test") for task in group.test_tasks},
        }

    def attribute_spec(self, group: str) -> dict[str, Any]:
        """For attribute_examples: the group's first fitting run, whose checkpoints the gradients are taken at."""
        chosen = self.groups[group]
        settings = self.params.attribution
        reads_text = "encoder_cosine" in settings.methods
        return self._trained_spec([chosen.runs[0]]) | self._sizes(chosen) | {
            "group": group,
            "format": chosen.runs[0].format,
            "train_tasks": list(chosen.train_tasks),
            "test_tasks": list(chosen.test_tasks),
            "methods": list(settings.methods),
            "settings": settings.model_dump(exclude={"methods", "replays", "orders", "kernel_checkpoints"}),
            "features": self.text_file("text") if reads_text else None,
            "code": code_digest("attribution.tables"),
        }  # fmt: skip

    def kernels_spec(self, group: str) -> dict[str, Any]:
        """For measure_kernels: the group's first fitting runs, whose checkpoints the gradients are taken at."""
        chosen = self.groups[group]
        plan = self.params.plan.scenarios.get(chosen.scenario)
        own = (plan and plan.kernel_checkpoints) or self.params.attribution.kernel_checkpoints
        fitting = [run for run in chosen.runs if run.split == "fit"]
        return self._trained_spec(fitting[: plan.kernel_runs if plan else 1]) | self._sizes(chosen) | {
            "group": group,
            "train_tasks": list(chosen.train_tasks),
            "test_tasks": list(chosen.test_tasks),
            "checkpoints": list(own) if isinstance(own, tuple) else own,
            "parameters": self.params.attribution.parameters,
            "code": code_digest("attribution.gradient_kernels"),
        }  # fmt: skip

    def replay_spec(self, job: str) -> dict[str, Any]:
        """For replay_runs: a gang's held-out and unseen runs, or those that are fitted on; see `replay_jobs`."""
        fitted = job.endswith(_FITTED)
        splits = FITTED if fitted else REPLAYED
        runs = [run for run in self.gang_of(job).runs if run.split in splits]
        return self._trained_spec(runs) | {
            "methods": list(OWN_STEPS.values() if fitted else self.params.attribution.replays),
            "checkpoints": self.params.attribution.checkpoints,
            "code": code_digest("attribution.replay"),
        }

    def sketch_spec(self, model: str) -> dict[str, Any]:
        """For sketch_gradients: every example that runs of a model read, in the formats in which they do."""
        runs = [run for run in self.drawn_runs() if run.model == model]
        tasks = dict.fromkeys(task for run in runs for task in run.train_tasks)
        settings = self.params.attribution
        return {
            "model": self.models[model] | {"folder": self.model_folder(model)},
            "tasks": {task: self.task_file(task) for task in tasks},
            "formats": sorted({run.format for run in runs}),
            "evaluation_tokens": self.params.dynamics.evaluation_tokens,
            "settings": settings.model_dump(include={"parameters", "projection", "damping", "seed"}),
            "code": code_digest("attribution.sketch"),
        }

    def rank_spec(self) -> dict[str, Any]:
        """For rank_mislabels: the run on all noisy labels, and the simulator of runs on parts of them."""
        group = self.groups[self.mislabelled_group or ""]
        noisy = next(run for run in group.runs if run.split == "noisy")
        settings = self._mislabelled()
        return self._trained_spec([noisy]) | self._sizes(group) | {
            "format": noisy.format,
            "train_tasks": list(group.train_tasks),
            "test_tasks": list(group.test_tasks),
            "simulator": self.simulator_file(group.group, "loss", RANKING_METHOD),
            "features": self.features_of(group.group, self.methods[RANKING_METHOD]),
            "task_file": self.task_file(group.train_tasks[0]),
            "pool": settings.pool,
            "checkpoints": self.params.attribution.checkpoints,
            "random_seeds": settings.random_seeds,
            "code": code_digest("mislabels.rank"),
        }  # fmt: skip

    def correct_spec(self) -> dict[str, Any]:
        """For correct_labels: the row of every run on corrected labels."""
        return {
            "runs": [run.row() for run in self.derived_runs("corrected")],
            "ranking": self.ranking_file,
            "pool": self._mislabelled().pool,
            "code": code_digest("mislabels.correct"),
        }

    def choose_spec(self, group: str) -> dict[str, Any]:
        """For choose_data: the group's fitting runs, and all that its simulators and scores are made of."""
        plan = self._choices()
        settings = plan.model_dump(include={"budget", "splits", "random"})
        return self._group_spec(group, "loss", ("fit", "validate")) | settings | {
            "pool": self.params.plan.pool,
            "task_file": self.task_file(self.groups[group].train_tasks[0]),
            "simulators": {name: self._method_spec(group, self.methods[name]) for name in plan.simulators},
            "table": self.table_file(group) if plan.scores else None,
            "scores": list(plan.scores),
            "code": code_digest("choices.choose"),
        }  # fmt: skip

    def write_chosen_spec(self) -> dict[str, Any]:
        """For write_chosen: the row of every run on chosen data."""
        return {
            "runs": [run.row() for run in self.derived_runs("chosen")],
            "choices": {group: self.choices_file(group) for group in self.choice_groups()},
            "code": code_digest("choices.curricula"),
        }

    def _choices(self) -> ChoicesPlan:
        plan = self.params.plan.choices
        assert plan is not None
        return plan

    def _mislabelled(self) -> MislabelledPlan:
        plan = self.params.plan.mislabelled
        assert plan is not None
        return plan

    def encoder_of(self, group: str, features: str) -> str:
        """Return what an encoder is called in names of files: as in params.yaml, and which model, if it is one."""
        encoder = self.params.simulators.encoders.get(features)
        return f"{features}-{self.groups[group].model}" if isinstance(encoder, ModelEncoder) else features

    def encode_spec(self, encoder: str) -> dict[str, Any]:
        """For encode_examples: the encoder and the prepared tasks, and which model it is, if it is one.

        Args:
            encoder: see `encoder_of`.
        """
        simulators = self.params.simulators
        name, _, model = encoder.partition("-")
        found = simulators.encoder if name == "text" else simulators.encoders[name]
        settings = found.model_dump()
        if model:
            settings |= self._model_as_encoder(model)
        return {
            "encoder": settings,
            "model": model or None,
            "tasks": {task: self.task_file(task) for task in self.tasks},
            "formats": sorted({run.format for run in self.runs.values()}),
            "code": code_digest("simulators.encode"),
        }

    def _model_as_encoder(self, model: str) -> dict[str, Any]:
        """Return where an encoder finds the weights of a model."""
        spec = self.models[model]
        if folder := self.model_folder(model):
            return {"source": "folder", "path": folder, "revision": None}
        keys = ("source", "package", "path", "weights") if spec["source"] == "gguf" else ("source", "path", "revision")
        return {key: spec.get(key) for key in keys}

    @cached_property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Every method with its settings: the trivial baselines, then the simulators."""
        trivial: dict[str, dict[str, Any]] = {name: {"kind": name} for name in self.params.baselines.trivial}
        named = {name: m.model_dump() for name, m in self.params.simulators.methods.items()}
        return trivial | {name: settings for name, settings in named.items() if self._can_fit(settings)}

    def _can_fit(self, settings: dict[str, Any]) -> bool:
        """Whether there is what a method reads: of released runs neither their GPT nor its gradients are there."""
        if not self.released:
            return True
        features = settings.get("features", "text")
        model = isinstance(self.params.simulators.encoders.get(features), ModelEncoder)
        return settings["kind"] not in (GRADIENT_RESPONSE, "additive") and features != "gradients" and not model

    @cached_property
    def left_out(self) -> list[str]:
        """Notes for tables: what of params.yaml a scale of released runs cannot have."""
        if not self.released:
            return []
        methods = [name for name in self.params.simulators.methods if name not in self.methods]
        first = min(run.first_step for run in self.runs.values() if isinstance(run, ReleasedRun))
        absent = ", ".join([*methods, "replays of gradients, attribution, mislabelled and chosen data"])
        return [
            f"The runs are those of the published data set GPTDynamics, measured from step {first} on; values that it "
            f"lacks are not judged. Left out, as the data set holds neither GPTs nor gradients: {absent}."
        ]

    def features_of(self, group: str, settings: dict[str, Any]) -> str | None:
        """Path of the features of examples that a method of some settings reads; None for those that read none."""
        if settings["kind"] != "gptfluence":
            return None
        if settings["features"] == "gradients":
            return self.gradients_file(self.groups[group].model)
        return self.text_file(self.encoder_of(group, settings["features"]))

    def _fitted(self, group: str) -> list[dict[str, Any]]:
        """Return the settings of all methods and variants that are fitted on a group."""
        methods = self.methods_of(group)
        return [self.methods[method] for method in methods] + [
            settings for method in methods for settings in self._variants_of(method).values()
        ]

    @cache  # noqa: B019
    def _variants_of(self, method: str) -> dict[str, dict[str, Any]]:
        """Return the whole settings of each variant of a method."""
        changes = self.params.variants.get(method, {})
        whole = {variant: replaced(self.methods[method], changed) for variant, changed in changes.items()}
        return {variant: settings for variant, settings in whole.items() if self._can_fit(settings)}

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
            **self._sizes(chosen),
            "test_tasks": [task for task in chosen.test_tasks if metric in self.params.metrics(task)],
            "runs": [_run_spec(run, run.split) for run in chosen.runs if run.split in splits],
        }

    def fit_spec(self, group: str, metric: str, method: str) -> dict[str, Any]:
        """For fit_simulator."""
        spec = self._group_spec(group, metric, ("fit", "validate")) | {
            "method": method,
            **self._method_spec(group, self.methods[method.removesuffix(POOLED)]),
            "code": code_digest("simulators.fit"),
        }
        if method.endswith(POOLED):
            spec["schedules"] = self._scheduled(group, ("fit", "validate"))
        return spec

    def _method_spec(self, group: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Return a method's settings, and the files on training examples that it reads."""
        return {
            "settings": {key: value for key, value in settings.items() if key != "features"},
            "features": self.features_of(group, settings),
            "table": self.table_file(group) if settings["kind"] == "additive" else None,
            "kernels": self.kernels_file(group) if settings["kind"] == GRADIENT_RESPONSE else None,
        }

    def simulate_spec(self, group: str, metric: str) -> dict[str, Any]:
        """For simulate_runs: the runs that no simulator has seen."""
        return self._group_spec(group, metric, ("held_out", "unseen")) | {
            "simulators": {method: self.simulator_file(group, metric, method) for method in self.methods},
            "replays": self.replays_of(group) if metric == "loss" else [],
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
            if group.metrics
        }
        files = [
            {
                "group": group,
                "metric": metric,
                "path": self.simulations_file(group, metric),
                "repeats": [
                    [{key: getattr(run, key) for key in ("run_id", "shard", "hash")} for run in pair]
                    for pair in (self.groups[group].repeats if metric in SAMPLED else ())
                ],
            }
            for group, metric in self.simulation_pairs()
        ]
        return {"groups": groups, "files": files, "code": code_digest("scores.score")} | self._bootstrap()

    def _bootstrap(self) -> dict[str, Any]:
        left_out = {"variants", "learning", "unseen_tests", "schedules", "convergence"}
        return self.params.scores.model_dump(exclude=left_out)

    @cache  # noqa: B019
    def judge_attribution_spec(self) -> dict[str, Any]:
        """For judge_attribution: the groups with retrainings on subsets; none in a plan without."""
        splits = ("fit", "validate", "held_out", "unseen", "subset")
        groups = {
            name: self._group_spec(name, "loss", splits)
            | {
                "table": self.table_file(name),
                "seconds": self.seconds_file(name),
                "replays": self.replays_of(name),
                "task_files": {task: self.task_file(task) for task in self.groups[name].train_tasks},
                "pool": self.params.plan.pool,
            }
            for name in self.judged_groups()
        }
        return {"groups": groups, "code": code_digest("scores.attribution")} | self._bootstrap()

    @cache  # noqa: B019
    def refit_spec(self, group: str, metric: str) -> dict[str, Any]:
        """For refit_simulators: baselines, methods with variants or learning curves, or judged on unseen tests."""
        scores = self.params.scores
        named = {*self.params.baselines.trivial, *self.params.variants, *scores.learning.methods}
        methods = [name for name in self.methods if name in named]
        splits = ("fit", "validate", "held_out", "unseen")
        spec = self._group_spec(group, metric, (*splits, "subset") if metric == "loss" else splits)
        with_losses = all("loss" in self.params.metrics(task) for task in spec["test_tasks"])
        return spec | {
            "methods": {
                name: self._method_spec(group, self.methods[name])
                | {
                    "variants": {
                        variant: self._method_spec(group, changed)
                        for variant, changed in self._variants_of(name).items()
                    },
                    "learning": name in scores.learning.methods,
                }
                for name in methods
            },
            "unseen_tests": self._unseen_tests_spec(group),
            "schedules": self._schedules_spec(group) if metric == "loss" else {},
            "elsewhere": self._elsewhere_spec(group, metric),
            "own_steps": self.own_steps_of(group) if metric == "loss" else [],
            "own_losses": metric in SAMPLED and with_losses,
            "judging": self._judging(),
            "code": code_digest("scores.simulators"),
        }

    def _judging(self) -> dict[str, Any]:
        scores = self.params.scores
        folds = {"folds": scores.unseen_tests.folds}
        return scores.learning.model_dump(exclude={"methods"}) | folds | self._bootstrap()

    @cache  # noqa: B019
    def judge_simulators_spec(self) -> dict[str, Any]:
        """For judge_simulators."""
        return {
            "refits": [self.refits_file(*pair) for pair in self.simulation_pairs()],
            "curves": [self.refit_curves_file(*pair) for pair in self.simulation_pairs()],
            "judging": self._judging(),
            "code": code_digest("scores.simulators"),
        }

    def _elsewhere_spec(self, group: str, metric: str) -> dict[str, Any]:
        """Return the runs of single tasks that simulators of a mixture are judged on, and which simulators."""
        own, size = self.groups[group], self._sizes(self.groups[group])
        tasks = [task for task in own.test_tasks if metric in self.params.metrics(task)]
        placed = own.placed
        if placed is None:
            rows = size["train_size"]
            placed = {task: [(0, rows - 1, i * rows)] for i, task in enumerate(own.train_tasks)}
        others = [
            other
            for other in self.groups.values()
            if own.scenario == "instruction_tuning" and other.scenario == "fine_tuning" and other.model == own.model
            if metric in other.metrics and other.test_tasks[0] in tasks and len(other.test_tasks) == 1
            if placed.get(other.train_tasks[0])
            if self._sizes(other)["test_sizes"][other.test_tasks[0]] >= size["test_sizes"][other.test_tasks[0]]
        ]
        unseen_tests = self.params.scores.unseen_tests
        return {
            "groups": [
                {
                    "group": other.group,
                    "task": other.test_tasks[0],
                    "train_tasks": list(other.train_tasks),
                    "train_size": self._sizes(other)["train_size"],
                    "rows": [list(stretch) for stretch in placed[other.train_tasks[0]]],
                    "runs": self._group_spec(other.group, metric, self._known_splits(other, placed))["runs"],
                }
                for other in others
            ],
            "methods": {
                name: self._method_spec(group, self.methods[name])
                | {
                    "variants": {
                        variant: self._method_spec(group, settings)
                        for variant, settings in self._variants_of(name).items()
                        if variant in unseen_tests.elsewhere_variants
                    }
                }
                # Others are made of curves, or of steps, of the length of their own runs.
                for name in unseen_tests.methods
                if others and name in self.methods and self.methods[name]["kind"] in ANY_LENGTH
            },
        }

    @staticmethod
    def _known_splits(other: Group, placed: Mapping[str, Sequence[tuple[int, int, int]]]) -> tuple[str, ...]:
        """Return the fitting runs, for their mean curve, and which splits train on examples that a mixture has, too."""
        stretches = placed[other.train_tasks[0]]
        runs = [run for run in other.runs if run.split in ("held_out", "unseen")]
        lacking = {run.split for run in runs if place(run.first_example, run.pool_size, stretches) is None}
        return tuple(sorted({"fit", *(run.split for run in runs)} - lacking))

    def _unseen_tests_spec(self, group: str) -> dict[str, Any]:
        """Return the methods that are judged on unseen tests, behind the curve that is all one knows there."""
        unseen_tests = self.params.scores.unseen_tests
        if not unseen_tests.methods:
            return {}
        learning = self.params.scores.learning.methods
        methods: dict[str, Any] = {}
        if unseen_tests.curve_of in self.methods:
            response = self._method_spec(group, self.methods[unseen_tests.curve_of])
            curve = response | {"settings": response["settings"] | {"kind": PREDICTED_CURVE}}
            methods[PREDICTED_CURVE] = curve | {"learning": True}
        for name in (name for name in unseen_tests.methods if name in self.methods):
            methods[name] = self._method_spec(group, self.methods[name]) | {"learning": name in learning}
        return methods

    def _schedules_spec(self, group: str) -> dict[str, Any]:
        """Return the runs under other schedules, by schedule and by what they serve for, and what is fitted on all."""
        runs = self._scheduled(group, tuple(SCHEDULED.values()))
        if not runs:
            return {}
        plain = {"settings": {"kind": TIME_CURVE}, "features": None, "table": None, "kernels": None}
        methods = {
            name: self._method_spec(group, self.methods[name])
            | {"fitted": self.simulator_file(group, "loss", name + POOLED)}
            for name in self.params.scores.schedules.methods
        }
        return {"runs": runs, "methods": {TIME_CURVE: plain} | methods}

    def _scheduled(self, group: str, splits: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
        """Return a group's runs under other schedules, by schedule, that serve for one of some purposes."""
        runs: dict[str, list[dict[str, Any]]] = {}
        for run in self.groups[group].runs:
            if SCHEDULED.get(run.split) in splits:
                runs.setdefault(run.scheduled, []).append(_run_spec(run, SCHEDULED[run.split]))
        return runs

    @cache  # noqa: B019
    def judge_mislabels_spec(self) -> dict[str, Any]:
        """For judge_mislabels: the runs on noisy and on corrected labels; none in a plan without."""
        code = code_digest("scores.mislabels")
        if self.mislabelled_group is None:
            return {"runs": [], "code": code}
        settings, group = self._mislabelled(), self.groups[self.mislabelled_group]
        judged = [run.row() for run in group.runs if run.split in ("noisy", "corrected")]
        keys = ("run_id", "split", "ranking", "fraction", "shard", "hash")
        return {
            "model": settings.model,
            "task": settings.task,
            "test_task": mislabelled_task(settings),
            "pool": settings.pool,
            "test_size": settings.test,
            "ranking": self.ranking_file,
            "runs": [{key: row[key] for key in keys} for row in judged],
            "code": code,
        }

    @cache  # noqa: B019
    def judge_choices_spec(self) -> dict[str, Any]:
        """For judge_choices: the runs on chosen data; none in a plan without."""
        keys = ("run_id", "ranking", "shard", "hash")
        groups = {
            name: {
                "model": self.groups[name].model,
                "task": self.groups[name].test_tasks[0],
                "tests": rows_of(self.tasks[self.groups[name].test_tasks[0]], "test"),
                "choices": self.choices_file(name),
                "runs": [{key: getattr(run, key) for key in keys} for run in self.groups[name].runs
                         if run.split == "chosen"],
            }
            for name in self.choice_groups()
        }  # fmt: skip
        return {"groups": groups, "confidence": self.params.scores.confidence, "code": code_digest("scores.choices")}

    @cache  # noqa: B019
    def convergence_spec(self) -> dict[str, Any]:
        """For judge_convergence: methods that are trained by Adam, on the loss of one group."""
        settings = self.params.scores.convergence
        group = self._shown_group()
        methods = {
            name: self._method_spec(group, replaced(self.methods[name], changed)) for name, changed in settings.items()
        }  # fmt: skip
        trivial = {name: self._method_spec(group, self.methods[name]) for name in self.params.baselines.trivial}
        return self._group_spec(group, "loss", ("fit", "validate")) | {
            "methods": methods,
            "trivial": trivial,
            "code": code_digest("scores.convergence"),
        }

    @cache  # noqa: B019
    def costs_spec(self) -> dict[str, Any]:
        """For measure_costs: every simulator of the loss of one group, and what its gradient attribution took."""
        # If there is one, a group whose attribution was timed.
        shown = self._shown_group()
        timed = [group for group in self.attributed_groups() if "loss" in self.groups[group].metrics]
        mixtures = [group for group in timed if self.groups[group].scenario == "instruction_tuning"]
        group = shown if shown in timed else next(iter([*mixtures, *timed]), shown)
        return self._group_spec(group, "loss", ("held_out",)) | {
            "simulators": {name: self.simulator_file(group, "loss", name) for name in self.methods},
            "batch": self.groups[group].runs[0].batch,
            "seconds": self.seconds_file(group) if group in self.attributed_groups() else None,
            "code": code_digest("scores.costs"),
        }

    def _shown_group(self) -> str:
        """Return the group whose fits and costs are shown: a mixture (of the paper's model, else the middle one)."""
        groups = [group for group in self.groups.values() if "loss" in group.metrics]
        scenario = next(s for s in ("instruction_tuning", "fine_tuning") if any(g.scenario == s for g in groups))
        found = [group for group in groups if group.scenario == scenario]
        models = [model for model in self._models_in_order() if any(group.model == model for group in found)]
        model = "pythia-410m" if "pythia-410m" in models else models[(len(models) - 1) // 2]
        return next(group.group for group in found if group.model == model)

    def _scored(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the files of the scores that something is made from, and the digest of what made them."""
        made_by = {"scores": self.score_spec, "curves": self.score_spec,
                   "attribution": self.judge_attribution_spec, "simulators": self.judge_simulators_spec,
                   "unseen_curves": self.judge_simulators_spec,
                   "mislabels": self.judge_mislabels_spec, "choices": self.judge_choices_spec,
                   "convergence": self.convergence_spec, "costs": self.costs_spec}  # fmt: skip
        files = {name: SCORED[name] for name in names if name in SCORED}
        return files | {"scored": digest([made_by[name]() for name in files])}

    def table_spec(self, table: str) -> dict[str, Any]:
        """For write_table."""
        package, module = item_modules(table)
        return {
            "table": table,
            "module": module.removeprefix(f"{package}."),
            **self._scored(TABLES[table]),
            **self.parts(table, TABLES[table]),
            "scale": self.params.scale,
            "models": self._models_in_order(),
            "published": file_digest(PUBLISHED),
            **({"notes": self.left_out} if self.left_out else {}),
            "code": code_digest(package, module),
        }

    def _models_in_order(self) -> list[str]:
        return [model for model in self.params.dynamics.models if model in self.models] + [
            model for model in self.models if model not in self.params.dynamics.models
        ]

    def table_inputs(self, table: str) -> list[str]:
        """Paths of what a table is made from."""
        return [SCORED[name] for name in TABLES[table] if name in SCORED]

    def figure_inputs(self, figure: str) -> list[str]:
        """Paths of what a figure is drawn from."""
        return [SCORED[name] for name in FIGURES[figure] if name in SCORED]

    def figure_spec(self, figure: str) -> dict[str, Any]:
        """For write_figure."""
        package, module = item_modules(figure)
        return {
            "figure": figure,
            "module": module.removeprefix(f"{package}."),
            **self._scored(FIGURES[figure]),
            **self.parts(figure, FIGURES[figure]),
            "models": self._models_in_order(),
            "width_in": self.params.paper.figure_width_in,
            "scale": self.params.scale,
            "code": code_digest(package, module),
        }

    def parts(self, item: str, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the parts of the plan that a table or figure shows, by name.

        contents: which curves; example_curves: how many, where the contents leave that open; variants: those of each
        method, as in params.yaml; hyperparameters: see `hyperparameters`.
        """
        parts: dict[str, Any] = {}
        if "contents" in names:
            parts["contents"] = dataclasses.asdict(CURVES[item]) | {"file": CURVES[item].file}
            if CURVES[item].examples is None:
                parts["example_curves"] = self.params.paper.example_curves
        if "variants" in names:
            parts["variants"] = self.params.variants
        if "hyperparameters" in names:
            parts["hyperparameters"] = hyperparameters(self.params, list(self.groups.values()), item)
        return parts

    def _report_spec(self, specs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """For write_report: all that is shown, and what made it.

        Args:
            specs: of every other job whose output has a plain name, by stage.
        """
        return {
            "scale": self.params.scale,
            "models": self._models_in_order(),
            "tables": {table: specs[table] for table in TABLES},
            "figures": {figure: f"results/figures/{figure}.png" for figure in FIGURES},
            "scores": dict(SCORED),
            "gangs": [
                {
                    "scenario": gang.runs[0].scenario,
                    "model": gang.runs[0].model,
                    "name": Path(gang.manifest).stem,
                    "runs": [{"split": run.split, "shard": run.shard} for run in gang.runs],
                }
                for gang in self.gangs.values()
            ],
            "jobs": self._timed_jobs(),
            "devices": {m: "gpu" if self.params.dynamics.models[m].gpu else "cpu" for m in self.models},
            "stages": {
                stage: {"files": files, "digest": digest(specs.get(stage, files))}
                for stage, files in self.stages.items()
                if stage != "report"
            },
            "published": file_digest(PUBLISHED),
            "look": [file_digest(path) for path in REPORT_LOOK],
            "code": code_digest("report.write"),
        }

    def _timed_jobs(self) -> dict[str, list[str]]:
        """Return what Snakemake's notes on the jobs of each rule are called, of all that take time but train no run."""
        files = {
            "pretrain_model": [folder for model in self.models if (folder := self.model_folder(model))],
            "encode_examples": [f for f in self.stages["features"] if Path(f).name.startswith("text.")],
            "sketch_gradients": [f for f in self.stages["features"] if Path(f).name.startswith("gradients.")],
            "attribute_examples": [self.table_file(group) for group in self.attributed_groups()],
            "measure_kernels": [self.kernels_file(group) for group in self.kernel_groups()],
            "replay_runs": [self.replays_file(job) for job in self.replay_jobs()],
            "fit_simulator": [self.simulator_file(*key) for key in self.fits()],
            "simulate_runs": [self.simulations_file(*pair) for pair in self.simulation_pairs()],
            "fit_schedules": [self.simulator_file(*key) for key in self.pooled_fits()],
            "refit_simulators": [self.refits_file(*pair) for pair in self.simulation_pairs()],
            "choose_data": [self.choices_file(group) for group in self.choice_groups()],
            "rank_mislabels": [self.ranking_file] if self.ranking_file else [],
        }
        return {
            rule: [Path(f).name if rule == "pretrain_model" else Path(f).stem for f in named]
            for rule, named in files.items()
        }

    def report_inputs(self) -> list[str]:
        """Paths of what the report shows: what tables are made from, drawn figures, and what is said of all of them."""
        shown = [
            f
            for name in (*TABLES, *FIGURES, "page")
            for f in self.stages[name]
            if f.endswith((".png", ".provenance.json"))
        ]
        judged = [f for name, files in self.stages.items() if name.startswith("scores") for f in files]
        return judged + shown

    @cache  # noqa: B019
    def page_spec(self) -> dict[str, Any]:
        """For write_page: every group with the first method that is made of gradient kernels; none without one."""
        method = next((name for name, of in self.methods.items() if of["kind"] == GRADIENT_RESPONSE), None)
        pairs = self.simulation_pairs() if method else []
        return {
            "groups": [self._page_group_spec(group, method) for group in dict.fromkeys(group for group, _ in pairs)],
            "scores": SCORES_FILE,
            "scored": digest(self.score_spec()),
            "scale": self.params.scale,
            "look": [file_digest(path) for path in PAGE_LOOK],
            "code": code_digest("page.write"),
        }

    def _page_group_spec(self, group: str, method: str) -> dict[str, Any]:
        chosen = self.groups[group]
        splits = ("fit", "validate", "held_out", "unseen")
        metrics = [
            {"metric": metric, "simulator": self.simulator_file(group, metric, method)}
            | {
                key: value
                for key, value in self._group_spec(group, metric, splits).items()
                if key in ("test_tasks", "runs")
            }
            for metric in chosen.metrics
        ]
        return {
            "group": group,
            "scenario": chosen.scenario,
            "model": chosen.model,
            "format": chosen.runs[0].format,
            "method": method,
            "train_tasks": list(chosen.train_tasks),
            **self._sizes(chosen),
            "pool": self.params.plan.pool,
            "task_files": {task: self.task_file(task) for task in (*chosen.train_tasks, *chosen.test_tasks)},
            "metrics": metrics,
        }

    def page_inputs(self) -> list[str]:
        """Paths of what the page is made from, but the runs' own."""
        groups = self.page_spec()["groups"]
        files = [metric["simulator"] for group in groups for metric in group["metrics"]]
        return [SCORES_FILE, *files, *dict.fromkeys(f for group in groups for f in group["task_files"].values())]

    @cache  # noqa: B019
    def plain_specs(self) -> dict[str, dict[str, Any]]:
        """Return the spec of every job whose output has a plain name, by its stage."""
        tables = {table: self.table_spec(table) for table in TABLES}
        judged = {
            "scores": self.score_spec(),
            "scores_attribution": self.judge_attribution_spec(),
            "scores_simulators": self.judge_simulators_spec(),
            "scores_mislabels": self.judge_mislabels_spec(),
            "scores_choices": self.judge_choices_spec(),
            "scores_convergence": self.convergence_spec(),
            "scores_costs": self.costs_spec(),
        }
        figures = {figure: self.figure_spec(figure) for figure in FIGURES}
        specs = judged | tables | figures | {"page": self.page_spec()}
        return specs | {"report": self._report_spec(specs)}


def _run_spec(run: Run, split: str) -> dict[str, Any]:
    """Return what is read of a run; `split`: what it serves for."""
    keys = ("run_id", "learning_rate", "schedule", "warmup", "hash", "shard", "curriculum")
    return {key: getattr(run, key) for key in keys} | {"split": split}


def item_modules(item: str) -> tuple[str, str]:
    """Return the modules that make a table or figure: the package's own, and what draws or lays out this one."""
    package = f"paper.{item.partition('_')[0]}s"
    return package, f"{package}.{MODULES.get(item, item)}"


def provenance_file(output: str) -> str:
    """Return the path of what is said of the files that a job with plain-named outputs made, by its first output."""
    return str(Path(output).with_suffix(".provenance.json"))


def make_design(params: Params) -> Design:
    """Return the plan of the chosen scale: a pure function of `params`, the code and the local files it names.

    Raises:
        UserError: a local task file or model folder that the plan needs is missing.
    """
    plan = params.plan
    if isinstance(plan, ReleasedScale):
        return _design(params, *make_released(params))
    names = sorted({task for scenario in plan.scenarios.values() for task in scenario.train_tasks})
    tested = {task for scenario in plan.scenarios.values() for task in scenario.test_tasks}
    tasks = {task: task_spec(params, task, task in tested) for task in names}
    noisy = plan.mislabelled
    if noisy:
        tasks |= {mislabelled_task(noisy): mislabelled_task_spec(params, noisy)}
    models_of_noisy = {noisy.model} if noisy else set()
    used = sorted({model for scenario in plan.scenarios.values() for model in scenario.models} | models_of_noisy)
    models = {model: model_spec(params, params.dynamics.models[model]) for model in used}

    groups = make_groups(params, tasks, models)
    design = _design(params, tasks, models, groups)
    # What is ranked, and what is chosen, is known once all other runs are.
    derived: dict[str, list[Run]] = {}
    if design.ranking_file and design.mislabelled_group:
        group = groups[design.mislabelled_group]
        derived[group.group] = corrected_runs(params, group, design.ranking_file, tasks, models[group.model])
    for group in map(groups.__getitem__, design.choice_groups()):
        derived[group.group] = chosen_runs(params, group, design.choices_file(group.group), tasks, models[group.model])
    if not derived:
        return design
    whole = {
        name: dataclasses.replace(groups[name], runs=(*groups[name].runs, *runs)) for name, runs in derived.items()
    }
    return _design(params, tasks, models, groups | whole)


def _design(
    params: Params,
    tasks: dict[str, dict[str, Any]],
    models: dict[str, dict[str, Any]],
    groups: dict[str, Group],
) -> Design:
    runs = {run.run_id: run for group in groups.values() for run in group.runs}
    return Design(params, tasks, models, runs, groups, make_gangs(groups))
