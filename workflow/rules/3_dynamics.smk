# Dynamics: GPTs trained on their curricula, measured at every step. The expensive part: every name holds a hash of
# all that determines the file, so no file time can make a job run again, and a changed setting makes a new name.


rule pretrain_model:
    input:
        spec=spec_of_model,
    output:
        directory("data/models/{model}.{hash}"),
    log:
        "logs/dynamics/pretrain.{model}.{hash}.log",
    benchmark:
        "results/benchmarks/pretrain_model/{model}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "gptfluence pretrain_model --spec {input.spec} --output {output} --log {log}"


# One job trains a gang of short runs in one process, or one long run. A run is the unit of caching: its shard stands
# as soon as it is done, is not trained again, and survives the job's failure. The manifest stands when all shards do.
rule train_runs:
    input:
        inputs_of_gang,
        spec=spec_of_gang,
    output:
        "data/dynamics/{gang}.{hash}.json",
    log:
        "logs/dynamics/{gang}.{hash}.log",
    benchmark:
        "results/benchmarks/train_runs/{gang}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_gang,
        runtime=minutes_of_gang,
        gpu=gpus_of_model,
    # exec: a signal that ends the shell would leave Snakemake, and so SLURM, no reason to wait for a last checkpoint.
    shell:
        "exec gptfluence train_runs --spec {input.spec} --output {output} --log {log}"


rule dynamics:
    input:
        [folder for model in DESIGN.models if (folder := DESIGN.model_folder(model))],
        [file for file in DESIGN.stages["dynamics"] if file.endswith(".json")],
    localrule: True
