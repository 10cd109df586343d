# The what-if page: one HTML file, in which curricula are edited and simulated in the browser.


rule write_page:
    input:
        inputs_of_page,
        spec=spec_of_page,
    output:
        DESIGN.stages["page"],
    log:
        "logs/page/write_page.log",
    localrule: True
    conda:
        "../envs/gptfluence.yaml"
    shell:
        "gptfluence write_page --spec {input.spec} --output {output} --log {log}"


rule page:
    input:
        rules.write_page.output,
    localrule: True
