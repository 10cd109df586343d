# Mislabels: labels are checked in an order of suspicion and corrected, and a GPT is trained on what is then known.


rule rank_mislabels:
    input:
        inputs_of_ranking,
        spec=spec_of_ranking,
    output:
        "data/mislabels/rankings/{group}.{hash}.parquet",
    log:
        "logs/mislabels/rank.{group}.{hash}.log",
    benchmark:
        "results/benchmarks/rank_mislabels/{group}.{hash}.tsv"
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=memory_of_model,
        runtime=minutes_of_model,
        gpu=gpus_of_model,
    shell:
        "gptfluence rank_mislabels --spec {input.spec} --output {output} --log {log}"


rule correct_labels:
    input:
        inputs_of_corrections,
        spec=spec_of_corrections,
    output:
        [run.curriculum for run in DESIGN.derived_runs("corrected")]
        or "data/mislabels/none",
    log:
        "logs/mislabels/correct_labels.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence correct_labels --spec {input.spec} --output data/mislabels/curricula --log {log}"


use rule train_runs as retrain_corrected with:
    output:
        "data/mislabels/dynamics/{gang}.{hash}.json",


rule mislabels:
    input:
        [f for f in DESIGN.stages["mislabels"] if f.endswith(".json")],
    localrule: True
