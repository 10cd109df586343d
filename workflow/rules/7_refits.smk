# Simulators fitted again, and judged: on the runs of several schedules, as variants, on fewer and more runs, without the
# tests that they are judged on.


use rule fit_simulator as fit_schedules with:
    output:
        "results/refits/{group}.{metric}.{method}.{hash}.safetensors",
    log:
        "logs/refits/{group}.{metric}.{method}.{hash}.log",
    benchmark:
        "results/benchmarks/fit_schedules/{group}.{metric}.{method}.{hash}.tsv"


rule refit_simulators:
    input:
        inputs_of_refits,
        spec=spec_of_refits,
    output:
        multiext(
            "results/refits/{group}.{metric}.{hash}", ".parquet", ".curves.parquet"
        ),
    log:
        "logs/refits/{group}.{metric}.{hash}.log",
    benchmark:
        "results/benchmarks/refit_simulators/{group}.{metric}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "gptfluence refit_simulators --spec {input.spec} --output {output} --log {log}"


rule refits:
    input:
        DESIGN.stages["refits"],
    localrule: True
