# The paper's tables beside the published numbers, from the tables of scores.


rule tables:
    input:
        scores=TABLES["scores"],
        recovery=TABLES["recovery"],
        published=f"{HERE}scripts/data/published_scores.csv",
        program=f"{HERE}scripts/paper_tables.py",
    output:
        rules_output["tables"],
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        tables=subpath(input.scores, parent=True),
        out=subpath(output[0], parent=True),
    shell:
        "python -m scripts.paper_tables --tables {params.tables:q} --out {params.out:q} 2> {log:q}"
