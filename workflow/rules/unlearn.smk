# One unlearning run; a run whose loss is not finite ends as "diverged" in its outcome.json, and the sweep goes on. Checkpoints along the
# training and masks are outputs, too, so there is a rule for each list of checkpoints and kind of mask.

for points, kind in itertools.product(POINTS, MASKS):

    rule:
        name:
            unlearning(points, kind)
        input:
            spec=f"{RESULTS}/{{corpus}}/{{run}}/spec.json",
            corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
            data=ancient(f"{RESULTS}/{{corpus}}/corpus/data"),
            target=f"{RESULTS}/{{corpus}}/target/outcome.json",
            target_weights=ancient(f"{RESULTS}/{{corpus}}/target/checkpoint"),
            program=program("unlearn"),
        output:
            outcome=f"{RESULTS}/{{corpus}}/{{run}}/outcome.json",
            record=f"{RESULTS}/{{corpus}}/{{run}}/run.json",
            checkpoint=kept(directory(f"{RESULTS}/{{corpus}}/{{run}}/checkpoint")),
            points=[f"{RESULTS}/{{corpus}}/{{run}}/{point}/{part}.json" for point in points for part in ("outcome", "run")],
            along=[kept(directory(f"{RESULTS}/{{corpus}}/{{run}}/{point}/checkpoint"), "last") for point in points],
            mask=[f"{RESULTS}/{{corpus}}/{{run}}/{name}" for name in MASKS[kind]],
        log:
            f"{RESULTS}/logs/{{corpus}}/{{run}}/unlearn.log",
        benchmark:
            f"{RESULTS}/benchmarks/{{corpus}}/{{run}}/unlearn.tsv"
        wildcard_constraints:
            run=masked(kind) + runs_with(points),
        retries: RETRIES
        conda:
            "../../envs/train.yaml"
        threads: THREADS
        resources:
            **RANKS,
            mem_mb=TRAINING_MB,
            runtime=runtime(1),
            gpu_model=GPU_MODEL,
            save_minutes=config["resources"]["save_minutes"],
            store=config["store_checkpoints"],
        params:
            corpus=subpath(input.corpus, parent=True),
            target=subpath(input.target, parent=True),
            out=subpath(output.outcome, parent=True),
        shell:
            f"exec python -m scripts.launch {LAUNCH} scripts.unlearn"
            " --spec {input.spec:q} --corpus {params.corpus:q} --target {params.target:q}"
            " --out {params.out:q} --save-minutes {resources.save_minutes} --store-checkpoints {resources.store} 2> {log:q}"


# Methods that are arithmetic on checkpoints: the same program, with the reinforced model and without a GPU.
rule combine:
    input:
        spec=f"{RESULTS}/{{corpus}}/{{run}}/spec.json",
        corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
        target=f"{RESULTS}/{{corpus}}/target/outcome.json",
        target_weights=ancient(f"{RESULTS}/{{corpus}}/target/checkpoint"),
        reinforced=f"{RESULTS}/{{corpus}}/reinforced/outcome.json",
        reinforced_weights=ancient(f"{RESULTS}/{{corpus}}/reinforced/checkpoint"),
        program=program("unlearn"),
    output:
        outcome=f"{RESULTS}/{{corpus}}/{{run}}/outcome.json",
        record=f"{RESULTS}/{{corpus}}/{{run}}/run.json",
        checkpoint=kept(directory(f"{RESULTS}/{{corpus}}/{{run}}/checkpoint")),
    log:
        f"{RESULTS}/logs/{{corpus}}/{{run}}/unlearn.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{corpus}}/{{run}}/combine.tsv"
    wildcard_constraints:
        run=f"({'|'.join(ARITHMETIC)})_none/[^/]+/seed[0-9]+",
    retries: RETRIES
    conda:
        "../../envs/train.yaml"
    threads: config["resources"]["threads"]
    resources:
        mem_mb=mem_mb(5),  # the model that is written, fp32 at most, and some tensors
        runtime=runtime(0.2),
        store=config["store_checkpoints"],
    params:
        corpus=subpath(input.corpus, parent=True),
        target=subpath(input.target, parent=True),
        reinforced=subpath(input.reinforced, parent=True),
        out=subpath(output.outcome, parent=True),
    shell:
        "exec python -m scripts.unlearn --spec {input.spec:q} --corpus {params.corpus:q} --target {params.target:q}"
        " --reinforced {params.reinforced:q} --out {params.out:q} --store-checkpoints {resources.store} 2> {log:q}"


ruleorder: combine > unlearn
