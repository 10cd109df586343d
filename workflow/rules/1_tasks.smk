# Tasks: examples with prompt and target, from the hub, local files, or the made-up world.


rule prepare_task:
    input:
        local_files_of_task,
        spec=spec_of_task,
    output:
        "data/tasks/{task}.{hash}.parquet",
    log:
        "logs/tasks/{task}.{hash}.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence prepare_task --spec {input.spec} --output {output} --log {log}"


rule tasks:
    input:
        DESIGN.stages["tasks"],
    localrule: True
