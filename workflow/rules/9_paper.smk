# The paper's tables and figures, each from the scores and simulations alone, so that one can be redrawn by itself.


rule write_table:
    input:
        inputs_of_table,
        spec=spec_of_table,
    output:
        multiext(
            "results/tables/{table}",
            ".csv",
            ".html",
            ".md",
            ".tex",
            ".provenance.json",
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
        multiext("results/figures/{figure}", ".pdf", ".png", ".provenance.json"),
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


# Those of one subject: `snakemake markov_order` makes Table 10 and Figure 4.
for subject, items in SUBJECTS.items():

    rule:
        name:
            subject
        input:
            [file for item in items for file in DESIGN.stages[item]],
        localrule: True
