# Features: what simulators and attribution know of examples. Vectors of their texts, and sketches of their gradients.


rule encode_examples:
    input:
        inputs_of_features,
        spec=spec_of_features,
    output:
        "results/features/text.{encoder}.{hash}.parquet",
    log:
        "logs/features/text.{encoder}.{hash}.log",
    benchmark:
        "results/benchmarks/encode_examples/text.{encoder}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "gptfluence encode_examples --spec {input.spec} --output {output} --log {log}"


rule sketch_gradients:
    input:
        inputs_of_sketches,
        spec=spec_of_sketches,
    output:
        "results/features/gradients.{model}.{hash}.parquet",
    log:
        "logs/features/gradients.{model}.{hash}.log",
    benchmark:
        "results/benchmarks/sketch_gradients/gradients.{model}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_model,
        runtime=minutes_of_model,
        gpu=gpus_of_model,
    shell:
        "gptfluence sketch_gradients --spec {input.spec} --output {output} --log {log}"


rule features:
    input:
        DESIGN.stages["features"],
    localrule: True
