# One job per figure, from the tables that it names and nothing else.


for name in FIGURES:

    rule:
        name:
            f"draw_{name}"
        input:
            tables=[TABLES[table] for table in registry.constants("figures", name)["TABLES"]],
            figure=f"{HERE}scripts/figures/{name}.py",
            program=program("draw"),
        output:
            svg=report(
                f"{RESULTS}/figures/{name}.svg",
                caption=caption(name),
                category="Figures",
                labels={"figure": name},
            ),
            pdf=f"{RESULTS}/figures/{name}.pdf",
        log:
            f"{RESULTS}/logs/figures/{name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/figures/{name}.tsv"
        localrule: True
        conda:
            "../../envs/train.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=15,
        params:
            figure=name,
            tables=subpath(output.svg, ancestor=2),
            prefix=subpath(output.svg, strip_suffix=".svg"),
        shell:
            "python -m scripts.draw --tables {params.tables:q} --figure {params.figure:q} --out {params.prefix:q} 2> {log:q}"
