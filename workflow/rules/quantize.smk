# Quantized models that are expensive to make (GPTQ, AWQ, …) are kept on disk; cheap ones are made inside the evaluation job.


# A checkpoint with whole weights, for environments that can't read differences; gone after the last job that reads it.
rule restore:
    input:
        outcome=f"{RESULTS}/{{corpus}}/{{model}}/outcome.json",
        checkpoint=ancient(f"{RESULTS}/{{corpus}}/{{model}}/checkpoint"),
        target_weights=ancient(f"{RESULTS}/{{corpus}}/target/checkpoint"),
        program=program("export"),
    output:
        temp(directory(f"{RESULTS}/{{corpus}}/{{model}}/restored")),
    log:
        f"{RESULTS}/logs/{{corpus}}/{{model}}/restore.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{corpus}}/{{model}}/restore.tsv"
    retries: RETRIES
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=mem_mb(1),
        runtime=runtime(0.1),
    params:
        run=subpath(input.outcome, parent=True),
    shell:
        "python -m scripts.export --as-stored {params.run:q} {output:q} &> {log:q}"


for scheme_name in ARTIFACTS:

    rule:
        name:
            f"quantize_{scheme_name}"
        input:
            scheme=f"{RESULTS}/{{corpus}}/schemes/{scheme_name}.json",
            outcome=f"{RESULTS}/{{corpus}}/{{model}}/outcome.json",
            checkpoint=whole_weights(scheme_name),
            corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
            data=ancient(f"{RESULTS}/{{corpus}}/corpus/data"),
            program=program("quantize"),
        output:
            directory(f"{RESULTS}/{{corpus}}/{{model}}/quantized/{scheme_name}"),
        log:
            f"{RESULTS}/logs/{{corpus}}/{{model}}/quantize_{scheme_name}.log",
        benchmark:
            f"{RESULTS}/benchmarks/{{corpus}}/{{model}}/quantize_{scheme_name}.tsv"
        retries: RETRIES
        conda:
            f"../../envs/{environment(scheme_name)}.yaml"
        threads: config["resources"]["threads"]
        resources:
            mem_mb=mem_mb(8),
            runtime=runtime(0.5),
            gpu=gpus_of(scheme_name),
            gpu_model=GPU_MODEL if gpus_of(scheme_name) else "",
        params:
            python=interpreter(environment(scheme_name)),
            corpus=subpath(input.corpus, parent=True),
            run=subpath(input.outcome, parent=True),
        shell:
            "exec {params.python:q} -m scripts.quantize --run {params.run:q} --corpus {params.corpus:q} --scheme {input.scheme:q}"
            " --checkpoint {input.checkpoint:q} --out {output:q} 2> {log:q}"
