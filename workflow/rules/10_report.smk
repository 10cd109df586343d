# The report: every table and figure, what they say in words, and what all of it cost and was made by, on one page.


rule write_report:
    input:
        inputs_of_report,
        spec=spec_of_report,
    output:
        "results/report.html",
        "results/report.provenance.json",
    log:
        "logs/report/write_report.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence write_report --spec {input.spec} --output {output} --log {log}"


rule report:
    input:
        rules.write_report.output,
    localrule: True
