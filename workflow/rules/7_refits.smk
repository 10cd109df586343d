# Simulators fitted again, and judged: as variants, on fewer and more runs, without the tests that they are judged on.


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
