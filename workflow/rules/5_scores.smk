# Scores: how near each method comes to the measured trajectories of runs that it has not seen.


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


rule scores:
    input:
        rules.score_simulations.output,
    localrule: True
