# Simulators and trivial baselines: fitted on the fitting runs, tuned on the validation runs, rolled out on the others.


rule fit_simulator:
    input:
        inputs_of_fit,
        spec=spec_of_fit,
    output:
        "results/simulators/{group}.{metric}.{method}.{hash}.safetensors",
    log:
        "logs/simulators/{group}.{metric}.{method}.{hash}.log",
    benchmark:
        "results/benchmarks/fit_simulator/{group}.{metric}.{method}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "gptfluence fit_simulator --spec {input.spec} --output {output} --log {log}"


rule simulate_runs:
    input:
        inputs_of_simulations,
        spec=spec_of_simulations,
    output:
        "results/simulations/{group}.{metric}.{hash}.parquet",
    log:
        "logs/simulations/{group}.{metric}.{hash}.log",
    benchmark:
        "results/benchmarks/simulate_runs/{group}.{metric}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    shell:
        "gptfluence simulate_runs --spec {input.spec} --output {output} --log {log}"


rule simulators:
    input:
        DESIGN.stages["simulators"],
    localrule: True
