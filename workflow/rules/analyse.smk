# Tidy tables of all scores. With `--config partial=true` they are made from the cells that are there.


# The resolved configuration: the aggregation reads the table of cells from it.
rule sweep:
    input:
        when_changed("sweep.json"),
    output:
        f"{RESULTS}/sweep.json",
    log:
        f"{RESULTS}/logs/sweep.log",
    conda:
        "../../envs/train.yaml"
    params:
        text=TEXTS["sweep.json"],
    shell:
        "printf '%s' {params.text:q} > {output}.partial && mv {output}.partial {output} 2> {log:q}"


# Scores, recovery, and what each scheme costs: bits, bytes, seconds, layers left alone. One job, since all of it is read from the metric
# files: a run that is cut off between the two would leave seconds of evaluations that were repeated.
rule aggregate:
    input:
        sweep=f"{RESULTS}/sweep.json",
        metrics=metric_files,
        program=program("aggregate"),
        scheme_table=program("schemes"),
    output:
        parquet=OUTPUTS["scores"][0],
        scores=report(
            OUTPUTS["scores"][1],
            caption=caption("scores"),
            category="Tables",
            labels={"table": "scores"},
        ),
        recovery=report(
            OUTPUTS["scores"][2],
            caption=caption("recovery"),
            category="Tables",
            labels={"table": "recovery"},
        ),
        schemes=report(
            OUTPUTS["scores"][3],
            caption=caption("schemes"),
            category="Tables",
            labels={"table": "schemes"},
        ),
    log:
        f"{RESULTS}/logs/aggregate.log",
    benchmark:
        f"{RESULTS}/benchmarks/aggregate.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        results=subpath(output.scores, parent=True),
    shell:
        "(python -m scripts.aggregate --sweep {input.sweep:q} --results {params.results:q} --out {params.results:q} &&"
        " python -m scripts.schemes --sweep {input.sweep:q} --results {params.results:q} --out {output.schemes:q}) 2> {log:q}"


# The masks of all masked runs, weight by weight.
rule masks:
    input:
        sweep=f"{RESULTS}/sweep.json",
        masks=mask_files,
        program=program("masks"),
    output:
        TABLES["masks"],
    log:
        f"{RESULTS}/logs/masks.log",
    benchmark:
        f"{RESULTS}/benchmarks/masks.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        results=subpath(output[0], parent=True),
    shell:
        "python -m scripts.masks --sweep {input.sweep:q} --results {params.results:q} --out {output:q} 2> {log:q}"


# Recovery by calibration set, where schemes differ in that alone.
rule calibration_effect:
    input:
        sweep=f"{RESULTS}/sweep.json",
        scores=TABLES["scores"],
        program=program("calibration_effect"),
    output:
        TABLES["calibration_effect"],
    log:
        f"{RESULTS}/logs/calibration_effect.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibration_effect.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        results=subpath(output[0], parent=True),
    shell:
        "python -m scripts.calibration_effect --sweep {input.sweep:q} --results {params.results:q} --out {output:q} 2> {log:q}"
