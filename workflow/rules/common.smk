# What the rules share: the plan, the call of a job, and functions of wildcards. Paths and specs come from the design.
import functools
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from gptfluence import scheduler, slurm
from gptfluence.callers import announce, break_stale_lock
from gptfluence.design import FIGURES, SUBJECTS, TABLES, make_design
from gptfluence.errors import UserError
from gptfluence.io import digest, write_json
from gptfluence.params import load_params
from gptfluence.standing import recorded_runs, refuse_hard_links, survey, why_renamed
from snakemake.exceptions import WorkflowError

try:
    DESIGN = make_design(load_params(config, Path(workflow.basedir) / "params.yaml"))
except UserError as error:
    raise WorkflowError(str(error)) from None

# A job's own process is given what to do; only the main one looks at what stands.
STANDING = survey(DESIGN) if workflow.is_main_process else None
if STANDING:
    if break_stale_lock():
        print("removed the lock of a Snakemake that was killed", file=sys.stderr)
    announce()
    try:
        # A stage of dvc.yaml makes its own files alone, in whose place DVC has put copies.
        refuse_hard_links(DESIGN, STANDING, os.environ.get("GPTFLUENCE_STAGE"))
    except UserError as error:
        raise WorkflowError(str(error)) from None
    slurm.register()
    scheduler.look_once_a_second()
    for path in Path(".snakemake/specs").glob("*.*.json"):  # of earlier calls
        if time.time() - path.stat().st_mtime > 24 * 60 * 60:
            path.unlink()
    stages = DESIGN.stages
    again = [why for s, why in STANDING.stale.items() if Path(stages[s][0]).exists()]
    for reason in [*STANDING.broken.values(), *again, *why_renamed(DESIGN)]:
        print(reason, file=sys.stderr)

# Jobs call `gptfluence`: the one on PATH (an active or conda environment), else the one beside this Snakemake.
shell.prefix(f"export PATH=$PATH:{shlex.quote(str(Path(sys.executable).parent))}; ")


wildcard_constraints:
    task=r"[^/]+",
    model=r"[^/]+",
    encoder=r"[^/]+",
    gang=r"[^/]+",
    group=r"[^/]+",
    hash=r"[0-9a-f]{12}",
    metric=r"loss|bleu|rouge_l",
    method=r"[a-z][a-z0-9_]*",
    table=r"table_\w+",
    figure=r"figure_\w+",


def spec_file(spec):
    """Write what a job needs where the job reads it, and return the path; its name is the content's digest."""
    path = Path(".snakemake/specs") / f"{digest(spec)}.json"
    if not path.exists():
        write_json(path, spec)
    return str(path)


def fixed_spec(spec, wildcards, planned):
    """The spec of a job whose output is named by the spec's digest: times say nothing, so it is ancient."""
    if f".{wildcards.get('hash')}" not in planned:
        raise WorkflowError(
            f"no such file is planned: with params.yaml as it is, the name would be {planned}"
        )
    return ancient(spec_file(spec))


def inputs(files, output, stands=True):
    """The input files of a job. Where its output stands, their times say nothing, and none of them is needed.

    Those that stand themselves are listed all the same, for the drawing of the workflow; a damaged or absent one is
    not, as Snakemake would make it and then run the job again.
    """
    if STANDING is None or not stands or not Path(output).exists():
        return files
    broken = {DESIGN.gangs[gang].manifest for gang in STANDING.broken}
    return ancient([f for f in files if Path(f).exists() and f not in broken])


def watched_spec(spec, outputs, why):
    """The spec of a job whose outputs can be out of date.

    Snakemake runs a job if an input is newer than an output, unless it knows a file of that name and content. So where
    there is a reason to run, the spec is a new file, behind all outputs; else its time says nothing.
    """
    path = spec_file(spec)
    if not why:
        return ancient(path)
    again = Path(path).with_suffix(f".{time.time_ns()}.json")
    shutil.copyfile(path, again)
    last = max(
        (Path(f).stat().st_mtime for f in outputs if Path(f).exists()), default=0
    )
    if last >= again.stat().st_mtime:  # outputs of a clock that runs ahead
        os.utime(again, (last + 1,) * 2)
    AGAIN.append(again)
    return str(again)


AGAIN = []  # specs of jobs that run again


def spec_of_task(wildcards):
    planned = DESIGN.task_file(wildcards.task)
    return fixed_spec(DESIGN.tasks[wildcards.task], wildcards, planned)


def spec_of_curricula(wildcards):
    return ancient(spec_file(DESIGN.curricula_spec()))


def spec_of_model(wildcards):
    planned = DESIGN.model_folder(wildcards.model) or ""
    return fixed_spec(DESIGN.models[wildcards.model], wildcards, planned)


@functools.cache
def watched_spec_of_gang(gang):
    why = STANDING and STANDING.broken.get(gang)
    return watched_spec(DESIGN.gang_spec(gang), [DESIGN.gangs[gang].manifest], why)


def spec_of_gang(wildcards):
    fixed_spec({}, wildcards, DESIGN.gangs[wildcards.gang].manifest)
    return watched_spec_of_gang(wildcards.gang)


def spec_of_features(wildcards):
    planned = DESIGN.text_file(wildcards.encoder)
    return fixed_spec(DESIGN.encode_spec(wildcards.encoder), wildcards, planned)


def spec_of_sketches(wildcards):
    planned = DESIGN.gradients_file(wildcards.model)
    return fixed_spec(DESIGN.sketch_spec(wildcards.model), wildcards, planned)


def spec_of_attribution(wildcards):
    planned = DESIGN.table_file(wildcards.group)
    return fixed_spec(DESIGN.attribute_spec(wildcards.group), wildcards, planned)


def spec_of_kernels(wildcards):
    planned = DESIGN.kernels_file(wildcards.group)
    return fixed_spec(DESIGN.kernels_spec(wildcards.group), wildcards, planned)


def spec_of_replays(wildcards):
    planned = DESIGN.replays_file(wildcards.gang)
    return fixed_spec(DESIGN.replay_spec(wildcards.gang), wildcards, planned)


def spec_of_ranking(wildcards):
    return fixed_spec(DESIGN.rank_spec(), wildcards, DESIGN.ranking_file)


def spec_of_corrections(wildcards):
    return ancient(spec_file(DESIGN.correct_spec()))


def spec_of_choices(wildcards):
    planned = DESIGN.choices_file(wildcards.group)
    return fixed_spec(DESIGN.choose_spec(wildcards.group), wildcards, planned)


def spec_of_chosen(wildcards):
    return ancient(spec_file(DESIGN.write_chosen_spec()))


def spec_of_fit(wildcards):
    key = wildcards.group, wildcards.metric, wildcards.method
    return fixed_spec(DESIGN.fit_spec(*key), wildcards, DESIGN.simulator_file(*key))


def spec_of_simulations(wildcards):
    key = wildcards.group, wildcards.metric
    planned = DESIGN.simulations_file(*key)
    return fixed_spec(DESIGN.simulate_spec(*key), wildcards, planned)


@functools.cache
def spec_of_stage(stage):
    """The spec of the scores, or of one table or figure: their files have plain names."""
    why = STANDING and STANDING.stale.get(stage)
    return watched_spec(DESIGN.plain_specs()[stage], DESIGN.stages[stage], why)


def spec_of_scores(wildcards):
    return spec_of_stage("scores")


def spec_of_judged_attribution(wildcards):
    return spec_of_stage("scores_attribution")


def spec_of_refits(wildcards):
    key = wildcards.group, wildcards.metric
    return fixed_spec(DESIGN.refit_spec(*key), wildcards, DESIGN.refits_file(*key))


def spec_of_judged_simulators(wildcards):
    return spec_of_stage("scores_simulators")


def spec_of_judged_mislabels(wildcards):
    return spec_of_stage("scores_mislabels")


def spec_of_judged_choices(wildcards):
    return spec_of_stage("scores_choices")


def spec_of_convergence(wildcards):
    return spec_of_stage("scores_convergence")


def spec_of_costs(wildcards):
    return spec_of_stage("scores_costs")


def spec_of_table(wildcards):
    return spec_of_stage(wildcards.table)


def spec_of_figure(wildcards):
    return spec_of_stage(wildcards.figure)


def spec_of_page(wildcards):
    return spec_of_stage("page")


def spec_of_report(wildcards):
    return spec_of_stage("report")


def local_files_of_task(wildcards):
    source = DESIGN.tasks[wildcards.task]["source"]
    templates = DESIGN.tasks[wildcards.task]["templates"]
    files = [
        source[key]
        for key in ("train", "test")
        if source["kind"] in ("local", "own") and source[key]
    ]
    files += [templates["path"]] if templates else []
    return inputs(files, DESIGN.task_file(wildcards.task))


def inputs_of_gang(wildcards):
    gang = DESIGN.gangs[wildcards.gang]
    run = gang.runs[0]
    folder = DESIGN.model_folder(run.model)
    files = [DESIGN.task_file(task) for task in run.train_tasks]
    files += [run.curriculum for run in gang.runs] + ([folder] if folder else [])
    stands = not (STANDING and gang.gang in STANDING.broken)
    return inputs(files, gang.manifest, stands)


def inputs_of_features(wildcards):
    spec = DESIGN.encode_spec(wildcards.encoder)
    files = [
        *spec["tasks"].values(),
        *(folder_of(spec["model"]) if spec["model"] else []),
    ]
    return inputs(files, DESIGN.text_file(wildcards.encoder))


def folder_of(model):
    """The folder of a model that the pipeline pre-trains; nothing for others."""
    folder = DESIGN.model_folder(model)
    return [folder] if folder else []


def inputs_of_sketches(wildcards):
    spec = DESIGN.sketch_spec(wildcards.model)
    files = [*spec["tasks"].values(), *folder_of(wildcards.model)]
    return inputs(files, DESIGN.gradients_file(wildcards.model))


def inputs_of_attribution(wildcards):
    spec = DESIGN.attribute_spec(wildcards.group)
    run = DESIGN.groups[wildcards.group].runs[0]
    files = [*spec["tasks"].values(), *folder_of(run.model), run.curriculum]
    files += [spec["features"]] if spec["features"] else []
    return inputs(files, DESIGN.table_file(wildcards.group))


def inputs_of_kernels(wildcards):
    spec = DESIGN.kernels_spec(wildcards.group)
    runs = [DESIGN.runs[row["run_id"]] for row in spec["runs"]]
    files = [*spec["tasks"].values(), *folder_of(runs[0].model)]
    files += [run.curriculum for run in runs]
    return inputs(files, DESIGN.kernels_file(wildcards.group))


def inputs_of_replays(wildcards):
    spec = DESIGN.replay_spec(wildcards.gang)
    runs = [DESIGN.runs[row["run_id"]] for row in spec["runs"]]
    files = [*spec["tasks"].values(), *folder_of(runs[0].model), *files_of_runs(runs)]
    return inputs(files, DESIGN.replays_file(wildcards.gang))


def inputs_of_ranking(wildcards):
    spec = DESIGN.rank_spec()
    run = DESIGN.runs[spec["runs"][0]["run_id"]]
    files = [spec["task_file"], *folder_of(run.model), *files_of_runs([run])]
    files += [spec["simulator"], spec["features"]]
    return inputs(files, DESIGN.ranking_file)


def inputs_of_corrections(wildcards):
    runs = DESIGN.derived_runs("corrected")
    return inputs(
        [DESIGN.ranking_file] if runs else [], runs[0].curriculum if runs else "none"
    )


def inputs_of_choices(wildcards):
    spec = DESIGN.choose_spec(wildcards.group)
    files = files_of_runs([DESIGN.runs[row["run_id"]] for row in spec["runs"]])
    files += [spec["task_file"], *([spec["table"]] if spec["table"] else [])]
    named = [
        method[kind]
        for method in spec["simulators"].values()
        for kind in ("features", "table", "kernels")
    ]
    files += dict.fromkeys(f for f in named if f and f not in files)
    return inputs(files, DESIGN.choices_file(wildcards.group))


def inputs_of_chosen(wildcards):
    files = [DESIGN.choices_file(group) for group in DESIGN.choice_groups()]
    return inputs(
        files, DESIGN.derived_runs("chosen")[0].curriculum if files else "none"
    )


def manifests_of_runs(runs):
    """The manifests of some runs, but none of shards that stand without it."""
    manifests = {}
    for run in runs:
        manifest = DESIGN.gangs[run.gang].manifest
        if Path(manifest).exists() or not Path(run.shard).exists():
            manifests[manifest] = None
    return list(manifests)


def files_of_runs(runs):
    """The manifests and curricula of some runs."""
    return [*manifests_of_runs(runs), *(run.curriculum for run in runs)]


def inputs_of_fit(wildcards):
    key = wildcards.group, wildcards.metric, wildcards.method
    spec = DESIGN.fit_spec(*key)
    rows = [
        row
        for runs in (spec["runs"], *spec.get("schedules", {}).values())
        for row in runs
    ]
    files = files_of_runs([DESIGN.runs[row["run_id"]] for row in rows])
    files += [
        file for file in (spec["features"], spec["table"], spec["kernels"]) if file
    ]
    return inputs(files, DESIGN.simulator_file(*key))


def inputs_of_simulations(wildcards):
    key = wildcards.group, wildcards.metric
    runs = DESIGN.groups[wildcards.group].runs
    files = files_of_runs([run for run in runs if run.split in ("held_out", "unseen")])
    files += [DESIGN.simulator_file(*key, method) for method in DESIGN.methods]
    files += DESIGN.simulate_spec(*key)["replays"]
    return inputs(files, DESIGN.simulations_file(*key))


def manifests_to_mend(wildcards):
    """Manifests of gangs of which a shard is damaged or gone: what depends on them stands, but they are asked for."""
    return [
        DESIGN.gangs[gang].manifest for gang in (STANDING.broken if STANDING else [])
    ]


def simulations():
    return [DESIGN.simulations_file(*key) for key in DESIGN.simulation_pairs()]


def inputs_of_stage(files, stage):
    """The input files of the scores, or of one table or figure."""
    stands = not (STANDING and stage in STANDING.stale)
    return inputs(files, DESIGN.stages[stage][0], stands)


def inputs_of_scores(wildcards):
    pairs = [pair for group in DESIGN.groups.values() for pair in group.repeats]
    shards = manifests_of_runs([run for pair in pairs for run in pair])
    return inputs_of_stage([*simulations(), *shards], "scores")


def inputs_of_judged_attribution(wildcards):
    files = []
    for name, spec in DESIGN.judge_attribution_spec()["groups"].items():
        files += files_of_runs([DESIGN.runs[row["run_id"]] for row in spec["runs"]])
        files += [spec["table"], spec["seconds"], *spec["replays"]]
        files += spec["task_files"].values()
    return inputs_of_stage(files, "scores_attribution")


def inputs_of_refits(wildcards):
    key = wildcards.group, wildcards.metric
    spec = DESIGN.refit_spec(*key)
    elsewhere = spec["elsewhere"]
    methods = [*spec["methods"].values(), *elsewhere["methods"].values()]
    variants = [variant for m in methods for variant in m["variants"].values()]
    scheduled = spec["schedules"] or {"runs": {}, "methods": {}}
    pooled = scheduled["methods"].values()
    named = [
        method[kind]
        for method in [*methods, *variants, *spec["unseen_tests"].values(), *pooled]
        for kind in ("features", "table", "kernels")
    ]
    rows = [row for other in (spec, *elsewhere["groups"]) for row in other["runs"]]
    rows += [row for runs in scheduled["runs"].values() for row in runs]
    files = files_of_runs([DESIGN.runs[row["run_id"]] for row in rows])
    files += [file for file in dict.fromkeys(named) if file]
    files += [method["fitted"] for method in pooled if "fitted" in method]
    files += spec["own_steps"]
    return inputs(files, DESIGN.refits_file(*key))


def inputs_of_judged_simulators(wildcards):
    return inputs_of_stage(DESIGN.stages["refits"], "scores_simulators")


def inputs_of_judged_mislabels(wildcards):
    rows = DESIGN.judge_mislabels_spec()["runs"]
    files = files_of_runs([DESIGN.runs[row["run_id"]] for row in rows])
    files += [DESIGN.ranking_file] if rows else []
    return inputs_of_stage(files, "scores_mislabels")


def inputs_of_judged_choices(wildcards):
    groups = DESIGN.judge_choices_spec()["groups"].values()
    rows = [row for group in groups for row in group["runs"]]
    files = files_of_runs([DESIGN.runs[row["run_id"]] for row in rows])
    files += [group["choices"] for group in groups]
    return inputs_of_stage(files, "scores_choices")


def inputs_of_convergence(wildcards):
    spec = DESIGN.convergence_spec()
    files = files_of_runs([DESIGN.runs[row["run_id"]] for row in spec["runs"]])
    named = [method["features"] for method in spec["methods"].values()]
    files += dict.fromkeys(file for file in named if file)
    return inputs_of_stage(files, "scores_convergence")


def inputs_of_costs(wildcards):
    spec = DESIGN.costs_spec()
    files = files_of_runs([DESIGN.runs[row["run_id"]] for row in spec["runs"]])
    files += spec["simulators"].values()
    files += [spec["seconds"]] if spec["seconds"] else []
    return inputs_of_stage(files, "scores_costs")


def inputs_of_table(wildcards):
    return inputs_of_stage(DESIGN.table_inputs(wildcards.table), wildcards.table)


def inputs_of_figure(wildcards):
    return inputs_of_stage(DESIGN.figure_inputs(wildcards.figure), wildcards.figure)


def inputs_of_page(wildcards):
    groups = [DESIGN.groups[spec["group"]] for spec in DESIGN.page_spec()["groups"]]
    splits = ("fit", "validate", "held_out", "unseen")
    runs = [run for group in groups for run in group.runs if run.split in splits]
    return inputs_of_stage([*DESIGN.page_inputs(), *files_of_runs(runs)], "page")


def inputs_of_report(wildcards):
    shards = manifests_of_runs(DESIGN.runs.values())
    return inputs_of_stage([*DESIGN.report_inputs(), *shards], "report")


def model_of(wildcards):
    """The model's row of a job that is named by a model, a group or a gang."""
    names = {
        "model": lambda name: name,
        "group": lambda name: DESIGN.groups[name].model,
        "gang": lambda name: DESIGN.gang_of(name).runs[0].model,
    }
    key = next(key for key in names if key in wildcards.keys())
    return DESIGN.machine(names[key](wildcards[key]))


def memory_of_model(wildcards, attempt):
    return int(1000 * model_of(wildcards).mem_gb * (1 + attempt / 2))


def minutes_of_model(wildcards, attempt):
    return model_of(wildcards).runtime_min * 4 * attempt


def gpus_of_model(wildcards):
    return model_of(wildcards).gpu


def memory_of_gang(wildcards, attempt):
    return int(1000 * model_of(wildcards).mem_gb * (1 + (attempt - 1) / 2))


def minutes_of_gang(wildcards, attempt):
    runs = DESIGN.gangs[wildcards.gang].runs
    return model_of(wildcards).runtime_min * len(runs) * attempt


def runs_to_train():
    """The runs whose shards this call is going to make."""
    jobs = [
        job
        for job in workflow.dag.needrun_jobs()
        if job.rule.name in ("train_runs", "retrain_corrected", "retrain_chosen")
    ]
    runs = [run for job in jobs for run in DESIGN.gangs[job.wildcards.gang].runs]
    return [run for run in runs if not Path(run.shard).exists()]


def prepare_start():
    """Before the first job: remove what is damaged, mend times, and do not train what a pull would bring.

    Raises:
        WorkflowError: runs would be trained that dvc.lock records, and none of the plan's is here.
    """
    for shard in STANDING.damaged:
        Path(shard).unlink(missing_ok=True)
    for path in [*AGAIN, *(f for files in DESIGN.stages.values() for f in files)]:
        # Made by a clock that runs ahead: Snakemake refuses outputs that are older than their inputs.
        if Path(path).exists() and Path(path).stat().st_mtime > time.time():
            os.utime(path, follow_symlinks=False)
    runs = DESIGN.runs.values()
    absent = not any(Path(run.shard).exists() for run in runs)
    if absent and runs_to_train() and recorded_runs(DESIGN):
        raise WorkflowError(
            f"none of the {len(runs)} runs is here, but dvc.lock records them: `dvc pull` brings them. "
            "To train them anew all the same, remove dvc.lock."
        )


def describe_plan():
    """Say in one line what the plan asks for, what of it stands already, and what this call trains."""
    runs = DESIGN.runs.values()
    here = sum(Path(run.shard).exists() for run in runs)
    return f"scale {DESIGN.params.scale}: {len(runs)} runs, {here} of them here; {len(runs_to_train())} to train now"


def describe_failure():
    """Say where the logs of a failed call are, and what to do next."""
    return "A job failed: its log is named above. What was finished stays; run the same command again to go on."
