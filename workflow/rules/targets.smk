# The models before unlearning: a base trained from scratch where the corpus asks for one, the target and the retrain model; and
# the target trained further on forget text, which some methods need.


rule base:
    input:
        spec=f"{RESULTS}/{{corpus}}/base/spec.json",
        corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
        data=ancient(f"{RESULTS}/{{corpus}}/corpus/data"),
        program=program("train"),
    output:
        outcome=f"{RESULTS}/{{corpus}}/base/outcome.json",
        record=f"{RESULTS}/{{corpus}}/base/run.json",
        checkpoint=directory(f"{RESULTS}/{{corpus}}/base/checkpoint"),
    log:
        f"{RESULTS}/logs/{{corpus}}/base.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{corpus}}/base.tsv"
    retries: RETRIES
    conda:
        "../../envs/train.yaml"
    threads: max(2 * config["resources"]["threads"], THREADS)  # target and retrain wait for it: nothing else needs these cores
    resources:
        **RANKS,
        mem_mb=TRAINING_MB,
        runtime=runtime(1),
        gpu_model=GPU_MODEL,
        save_minutes=config["resources"]["save_minutes"],
        calibration=demands,
    params:
        corpus=subpath(input.corpus, parent=True),
        out=subpath(output.outcome, parent=True),
    shell:
        f"exec python -m scripts.launch {LAUNCH} scripts.train"
        " --spec {input.spec:q} --corpus {params.corpus:q} --out {params.out:q}"
        " --save-minutes {resources.save_minutes} --calibration={resources.calibration:q} 2> {log:q}"


rule reference:
    input:
        unpack(base),
        spec=f"{RESULTS}/{{corpus}}/{{reference}}/spec.json",
        corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
        data=ancient(f"{RESULTS}/{{corpus}}/corpus/data"),
        program=program("train"),
    output:
        outcome=f"{RESULTS}/{{corpus}}/{{reference}}/outcome.json",
        record=f"{RESULTS}/{{corpus}}/{{reference}}/run.json",
        checkpoint=directory(f"{RESULTS}/{{corpus}}/{{reference}}/checkpoint"),
    log:
        f"{RESULTS}/logs/{{corpus}}/{{reference}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{corpus}}/{{reference}}.tsv"
    retries: RETRIES
    conda:
        "../../envs/train.yaml"
    threads: THREADS
    resources:
        **unless_copied(**RANKS, mem_mb=TRAINING_MB, runtime=runtime(1), gpu_model=GPU_MODEL),
        save_minutes=config["resources"]["save_minutes"],
        calibration=demands,
    params:
        corpus=subpath(input.corpus, parent=True),
        out=subpath(output.outcome, parent=True),
        base=lambda wildcards: f"--base {RESULTS}/{wildcards.corpus}/base" if base(wildcards) else "",
    shell:
        f"exec python -m scripts.launch {LAUNCH} scripts.train"
        " --spec {input.spec:q} --corpus {params.corpus:q} --out {params.out:q} {params.base}"
        " --save-minutes {resources.save_minutes} --calibration={resources.calibration:q} 2> {log:q}"


rule reinforced:
    input:
        spec=f"{RESULTS}/{{corpus}}/reinforced/spec.json",
        corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
        data=ancient(f"{RESULTS}/{{corpus}}/corpus/data"),
        target=f"{RESULTS}/{{corpus}}/target/outcome.json",
        target_weights=ancient(f"{RESULTS}/{{corpus}}/target/checkpoint"),
        program=program("train"),
    output:
        outcome=f"{RESULTS}/{{corpus}}/reinforced/outcome.json",
        record=f"{RESULTS}/{{corpus}}/reinforced/run.json",
        checkpoint=directory(f"{RESULTS}/{{corpus}}/reinforced/checkpoint"),
    log:
        f"{RESULTS}/logs/{{corpus}}/reinforced.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{corpus}}/reinforced.tsv"
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
    params:
        corpus=subpath(input.corpus, parent=True),
        target=subpath(input.target, parent=True),
        out=subpath(output.outcome, parent=True),
    shell:
        f"exec python -m scripts.launch {LAUNCH} scripts.train"
        " --spec {input.spec:q} --corpus {params.corpus:q} --out {params.out:q} --base {params.target:q}"
        " --save-minutes {resources.save_minutes} 2> {log:q}"
