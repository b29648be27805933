# Figures, from the tables that they name and nothing else. Those that name the same tables are drawn by one job: starting Python
# takes longer than drawing. A figure whose code failed at the last start (scripts/draw.py has marked it) has a job of its own.

TOGETHER = {}
for name in FIGURES:
    alone = name if os.path.exists(f"{RESULTS}/figures/.{name}.broken") else ""
    TOGETHER.setdefault((tuple(sorted(registry.constants("figures", name)["TABLES"])), alone), []).append(name)


for (read, alone), names in TOGETHER.items():
    together = "_".join([*read, *filter(None, [alone])])

    rule:
        name:
            f"draw_{together}"
        input:
            tables=[TABLES[table] for table in read],
            figures=[f"{HERE}scripts/figures/{name}.py" for name in names],
            program=program("draw"),
        output:
            svg=[
                report(
                    f"{RESULTS}/figures/{name}.svg",
                    caption=caption(name),
                    category="Figures",
                    labels={"figure": name},
                )
                for name in names
            ],
            pdf=[f"{RESULTS}/figures/{name}.pdf" for name in names],
        log:
            f"{RESULTS}/logs/figures/{together}.log",
        benchmark:
            f"{RESULTS}/benchmarks/figures/{together}.tsv"
        localrule: True
        conda:
            "../../envs/train.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=15,
        params:
            figures=names,
            tables=subpath(output[0], ancestor=2),
            out=subpath(output[0], parent=True),
        shell:
            "python -m scripts.draw --tables {params.tables:q} --figure {params.figures:q} --out {params.out:q}/ 2> {log:q}"
