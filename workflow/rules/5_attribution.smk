# Attribution: what gradients, texts and trivial rules say of the influence of each training example on each test
# example, the gradient kernels that simulators are made of, and what gradients say of every step of the runs that are
# simulated.


rule attribute_examples:
    input:
        inputs_of_attribution,
        spec=spec_of_attribution,
    output:
        "results/attribution/tables/{group}.{hash}.parquet",
        "results/attribution/tables/{group}.{hash}.seconds.json",
    log:
        "logs/attribution/{group}.{hash}.log",
    benchmark:
        "results/benchmarks/attribute_examples/{group}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_model,
        runtime=minutes_of_model,
        gpu=gpus_of_model,
    shell:
        "gptfluence attribute_examples --spec {input.spec} --output {output} --log {log}"


rule measure_kernels:
    input:
        inputs_of_kernels,
        spec=spec_of_kernels,
    output:
        "results/attribution/kernels/{group}.{hash}.safetensors",
    log:
        "logs/attribution/kernels.{group}.{hash}.log",
    benchmark:
        "results/benchmarks/measure_kernels/{group}.{hash}.tsv"
    priority: 1  # the longest jobs, which would else be the last, alone
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_model,
        runtime=minutes_of_model,
        gpu=gpus_of_model,
    shell:
        "gptfluence measure_kernels --spec {input.spec} --output {output} --log {log}"


rule replay_runs:
    input:
        inputs_of_replays,
        spec=spec_of_replays,
    output:
        "results/attribution/replays/{gang}.{hash}.parquet",
    log:
        "logs/attribution/replay.{gang}.{hash}.log",
    benchmark:
        "results/benchmarks/replay_runs/{gang}.{hash}.tsv"
    priority: 1  # the longest jobs, which would else be the last, alone
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_model,
        runtime=minutes_of_model,
        gpu=gpus_of_model,
    shell:
        "gptfluence replay_runs --spec {input.spec} --output {output} --log {log}"


rule attribution:
    input:
        DESIGN.stages["attribution"],
    localrule: True
