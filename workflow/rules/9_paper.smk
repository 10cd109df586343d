# The paper's tables and figures, each from the scores and simulations alone, so that one can be redrawn by itself.


rule write_table:
    input:
        inputs_of_table,
        spec=spec_of_table,
    output:
        multiext("results/tables/{table}", ".csv", ".md", ".tex", ".provenance.json"),
        report(
            "results/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "logs/paper/{table}.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence write_table --spec {input.spec} --output {output} --log {log}"


rule write_figure:
    input:
        inputs_of_figure,
        spec=spec_of_figure,
    output:
        multiext("results/figures/{figure}", ".pdf", ".provenance.json"),
        report(
            "results/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        "logs/paper/{figure}.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence write_figure --spec {input.spec} --output {output} --log {log}"


rule tables:
    input:
        [file for table in TABLES for file in DESIGN.stages[table]],
    localrule: True


rule figures:
    input:
        [file for figure in FIGURES for file in DESIGN.stages[figure]],
    localrule: True
