# The paper's tables beside the published numbers, and one page of findings, figures, continuations and every score.


rule tables:
    input:
        scores=TABLES["scores"],
        recovery=TABLES["recovery"],
        published=f"{HERE}scripts/data/published_scores.csv",
        program=f"{HERE}scripts/paper_tables.py",
    output:
        OUTPUTS["tables"],
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


rule pages:
    input:
        scores=TABLES["scores"],
        recovery=TABLES["recovery"],
        figures=[f"{RESULTS}/figures/{name}.svg" for name in FIGURES],
        template=f"{HERE}scripts/data/page.html",
        program=f"{HERE}scripts/pages.py",
    output:
        report(
            OUTPUTS["pages"][0],
            caption=caption("results"),
            category="Findings",
            labels={"page": "results"},
        ),
        report(
            OUTPUTS["pages"][1],
            caption=caption("findings"),
            category="Findings",
            labels={"page": "in five sentences"},
        ),
    log:
        f"{RESULTS}/logs/pages.log",
    benchmark:
        f"{RESULTS}/benchmarks/pages.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        results=subpath(input.scores, parent=True),
        out=subpath(output[0], parent=True),
    shell:
        "python -m scripts.pages --results {params.results:q} --figures {input.figures:q} --out {params.out:q} 2> {log:q}"
