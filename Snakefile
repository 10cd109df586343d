# GPTfluence: from tasks to the paper's tables and figures. `snakemake -n` shows the plan of params.yaml.
from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/1_tasks.smk"
include: "workflow/rules/2_curricula.smk"
include: "workflow/rules/3_dynamics.smk"
include: "workflow/rules/4_features.smk"
include: "workflow/rules/5_attribution.smk"
include: "workflow/rules/6_simulators.smk"
include: "workflow/rules/7_refits.smk"
include: "workflow/rules/7_mislabels.smk"
include: "workflow/rules/7_choices.smk"
include: "workflow/rules/8_scores.smk"
include: "workflow/rules/9_paper.smk"
include: "workflow/rules/9_page.smk"
include: "workflow/rules/10_report.smk"


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.write_report.output,
        rules.page.input,
        manifests_to_mend,
    localrule: True


onstart:
    prepare_start()
    print(describe_plan(), flush=True)


onerror:
    print(describe_failure(), flush=True)
