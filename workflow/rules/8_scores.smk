# Scores: how near each method comes to the measured trajectories of runs that it has not seen, and how well
# attribution tells what retraining, single steps, known facts and known mistakes show, and what it helps to choose.


rule score_simulations:
    input:
        inputs_of_scores,
        spec=spec_of_scores,
    output:
        DESIGN.stages["scores"],
    log:
        "logs/scores/score_simulations.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence score_simulations --spec {input.spec} --output {output} --log {log}"


rule judge_attribution:
    input:
        inputs_of_judged_attribution,
        spec=spec_of_judged_attribution,
    output:
        DESIGN.stages["scores_attribution"],
    log:
        "logs/scores/judge_attribution.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence judge_attribution --spec {input.spec} --output {output} --log {log}"


rule judge_simulators:
    input:
        inputs_of_judged_simulators,
        spec=spec_of_judged_simulators,
    output:
        DESIGN.stages["scores_simulators"],
    log:
        "logs/scores/judge_simulators.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence judge_simulators --spec {input.spec} --output {output} --log {log}"


rule judge_mislabels:
    input:
        inputs_of_judged_mislabels,
        spec=spec_of_judged_mislabels,
    output:
        DESIGN.stages["scores_mislabels"],
    log:
        "logs/scores/judge_mislabels.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence judge_mislabels --spec {input.spec} --output {output} --log {log}"


rule judge_choices:
    input:
        inputs_of_judged_choices,
        spec=spec_of_judged_choices,
    output:
        DESIGN.stages["scores_choices"],
    log:
        "logs/scores/judge_choices.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence judge_choices --spec {input.spec} --output {output} --log {log}"


rule judge_convergence:
    input:
        inputs_of_convergence,
        spec=spec_of_convergence,
    output:
        DESIGN.stages["scores_convergence"],
    log:
        "logs/scores/judge_convergence.log",
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "gptfluence judge_convergence --spec {input.spec} --output {output} --log {log}"


rule measure_costs:
    input:
        inputs_of_costs,
        spec=spec_of_costs,
    output:
        DESIGN.stages["scores_costs"],
    log:
        "logs/scores/measure_costs.log",
    conda:
        "../envs/gptfluence.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    shell:
        "gptfluence measure_costs --spec {input.spec} --output {output} --log {log}"


rule scores:
    input:
        rules.score_simulations.output,
        rules.judge_attribution.output,
        rules.judge_simulators.output,
        rules.judge_mislabels.output,
        rules.judge_choices.output,
        rules.judge_convergence.output,
        rules.measure_costs.output,
    localrule: True
