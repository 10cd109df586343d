# Choices: simulators and attribution choose what to train on, for the sake of some tests; GPTs trained on it tell.


rule choose_data:
    input:
        inputs_of_choices,
        spec=spec_of_choices,
    output:
        "data/choices/chosen/{group}.{hash}.parquet",
    log:
        "logs/choices/choose.{group}.{hash}.log",
    benchmark:
        "results/benchmarks/choose_data/{group}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "gptfluence choose_data --spec {input.spec} --output {output} --log {log}"


rule write_chosen:
    input:
        inputs_of_chosen,
        spec=spec_of_chosen,
    output:
        [run.curriculum for run in DESIGN.derived_runs("chosen")] or "data/choices/none",
    log:
        "logs/choices/write_chosen.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence write_chosen --spec {input.spec} --output data/choices/curricula --log {log}"


use rule train_runs as retrain_chosen with:
    output:
        "data/choices/dynamics/{gang}.{hash}.json",


rule choices:
    input:
        [f for f in DESIGN.stages["choices"] if f.endswith(".json")],
    localrule: True
