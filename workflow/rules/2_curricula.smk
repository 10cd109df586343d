# Curricula: the example ids of every step of every run. Drawn in one job: it takes a second.


rule draw_curricula:
    input:
        spec=spec_of_curricula,
    output:
        DESIGN.stages["curricula"],
    log:
        "logs/curricula/draw_curricula.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence draw_curricula --spec {input.spec} --output data/curricula --log {log}"


rule curricula:
    input:
        rules.draw_curricula.output,
    localrule: True
