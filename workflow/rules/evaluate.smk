# All metrics of one checkpoint under one scheme in one job, or under several when `evaluation.schemes_per_job` says so. Metric
# files are `update` outputs: the job keeps those that still hold, so that a new metric or scheme computes only itself.


for names in grid.evaluations(config):

    rule:
        name:
            f"evaluate_{names[0]}"
        input:
            outcome=f"{RESULTS}/{{corpus}}/{{model}}/outcome.json",
            checkpoint=ancient(f"{RESULTS}/{{corpus}}/{{model}}/checkpoint"),
            target_weights=ancient(f"{RESULTS}/{{corpus}}/target/checkpoint"),
            corpus=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
            data=ancient(f"{RESULTS}/{{corpus}}/corpus/data"),
            schemes=[f"{RESULTS}/{{corpus}}/evaluations/{name}.json" for name in names],
            artifacts=[f"{RESULTS}/{{corpus}}/{{model}}/quantized/{name}" for name in names if name in ARTIFACTS],
            program=program("evaluate"),
        output:
            [update(f"{RESULTS}/{{corpus}}/{{model}}/eval/{name}/{metric}.json") for name in names for metric in METRICS],
        log:
            f"{RESULTS}/logs/{{corpus}}/{{model}}/evaluate_{names[0]}.log",
        benchmark:
            f"{RESULTS}/benchmarks/{{corpus}}/{{model}}/evaluate_{names[0]}.tsv"
        retries: RETRIES
        conda:
            f"../../envs/{serving.environment(config)}.yaml"
        threads: config["resources"]["threads"]
        resources:
            mem_mb=mem_mb(5 if serving.environment(config) == "train" else 10),  # for vLLM models are dequantized on the host, in fp32
            runtime=runtime(0.5 * len(names)),
            gpu=min(1, config["resources"]["gpus"]),
            gpu_model=GPU_MODEL,
        params:
            python=interpreter(serving.environment(config)),
            corpus=subpath(input.corpus, parent=True),
            run=subpath(input.outcome, parent=True),
        shell:
            "exec {params.python:q} -m scripts.evaluate --run {params.run:q} --corpus {params.corpus:q}"
            " --schemes {input.schemes:q} 2> {log:q}"
