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


rule scores:
    input:
        rules.score_simulations.output,
        rules.judge_attribution.output,
        rules.judge_simulators.output,
        rules.judge_mislabels.output,
        rules.judge_choices.output,
    localrule: True
