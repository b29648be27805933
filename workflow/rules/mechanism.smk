# Why a run recovers: what unlearning did to the weights, what each scheme leaves of it, and how well that predicts recovery.

weigh = config["mechanism"]["gradient"]


rule mechanism:
    input:
        outcome=f"{RESULTS}/{{corpus}}/{{run}}/outcome.json",
        checkpoint=ancient(f"{RESULTS}/{{corpus}}/{{run}}/checkpoint"),
        target=f"{RESULTS}/{{corpus}}/target/outcome.json",
        target_weights=ancient(f"{RESULTS}/{{corpus}}/target/checkpoint"),
        schemes=scheme_files,
        artifacts=scheme_artifacts,
        corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
        data=ancient(f"{RESULTS}/{{corpus}}/corpus/data"),
        program=program("mechanism"),
    output:
        update(f"{RESULTS}/{{corpus}}/{{run}}/mechanism.json"),
    log:
        f"{RESULTS}/logs/{{corpus}}/{{run}}/mechanism.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{corpus}}/{{run}}/mechanism.tsv"
    retries: RETRIES
    conda:
        "../../envs/train.yaml"
    threads: config["resources"]["threads"]
    resources:
        mem_mb=mem_mb(10 if weigh else 2),  # on a CPU the weights and the sums of gradients are fp32
        runtime=runtime(0.3),
        gpu=min(1, config["resources"]["gpus"]) if weigh else 0,
        gpu_model=GPU_MODEL if weigh else "",
    params:
        run=subpath(input.outcome, parent=True),
        target=subpath(input.target, parent=True),
        corpus=lambda wildcards: f"--corpus {RESULTS}/{wildcards.corpus}/corpus".split() if weigh else [],
    shell:
        "exec python -m scripts.mechanism --run {params.run:q} --target {params.target:q} --schemes {input.schemes:q}"
        " {params.corpus:q} 2> {log:q}"


# One row per run, scheme and kind of layer, and the histograms.
rule mechanism_tables:
    input:
        sweep=f"{RESULTS}/sweep.json",
        mechanisms=mechanism_files,
        program=program("mechanism_tables"),
    output:
        TABLES["mechanism"],
        TABLES["moved"],
    log:
        f"{RESULTS}/logs/mechanism_tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/mechanism_tables.tsv"
    localrule: True
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        results=subpath(output[0], parent=True),
    shell:
        "python -m scripts.mechanism_tables --sweep {input.sweep:q} --results {params.results:q} 2> {log:q}"


# Hours and bytes of every cell, from Snakemake's benchmarks and the files themselves.
rule costs:
    input:
        sweep=f"{RESULTS}/sweep.json",
        # It reads what the jobs behind these have recorded; in schemes.csv are seconds, which change when an evaluation is repeated.
        schemes=TABLES["schemes"],
        mechanism=TABLES["mechanism"],
        program=program("costs"),
    output:
        TABLES["costs"],
    log:
        f"{RESULTS}/logs/costs.log",
    localrule: True
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        results=subpath(output[0], parent=True),
    shell:
        "python -m scripts.costs --sweep {input.sweep:q} --results {params.results:q} 2> {log:q}"


# Each run's recovery under a scheme as predicted from its weights, by fits that have not seen it.
rule predict:
    input:
        recovery=TABLES["recovery"],
        mechanism=TABLES["mechanism"],
        program=program("predict"),
    output:
        TABLES["prediction"],
        TABLES["prediction_fit"],
    log:
        f"{RESULTS}/logs/predict.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict.tsv"
    localrule: True
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        tables=subpath(output[0], parent=True),
    shell:
        "python -m scripts.predict --tables {params.tables:q} > {log:q} 2>&1"


# All of it: `snakemake explanation`.
rule explanation:
    input:
        [TABLES[name] for name in ("mechanism", "moved", "prediction", "prediction_fit", "costs")],
    localrule: True
