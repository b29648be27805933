# Specs (the only way that parameters reach a job), and corpora.


rule spec:
    input:
        when_changed("{path}/spec.json"),
    output:
        f"{RESULTS}/{{path}}/spec.json",
    log:
        f"{RESULTS}/logs/{{path}}/spec.log",
    conda:
        "../../envs/train.yaml"
    params:
        text=lambda wildcards: TEXTS[f"{wildcards.path}/spec.json"],
    shell:
        "printf '%s' {params.text:q} > {output}.partial && mv {output}.partial {output} 2> {log:q}"


# A scheme by itself, for those who quantize, and with metrics and engine, for those who evaluate.
rule scheme:
    input:
        when_changed("{corpus}/{folder}/{scheme}.json"),
    output:
        f"{RESULTS}/{{corpus}}/{{folder}}/{{scheme}}.json",
    log:
        f"{RESULTS}/logs/{{corpus}}/{{folder}}/{{scheme}}.log",
    wildcard_constraints:
        folder="schemes|evaluations",
    conda:
        "../../envs/train.yaml"
    params:
        text=lambda wildcards: TEXTS[f"{wildcards.corpus}/{wildcards.folder}/{wildcards.scheme}.json"],
    shell:
        "printf '%s' {params.text:q} > {output}.partial && mv {output}.partial {output} 2> {log:q}"


rule corpus:
    input:
        spec=f"{RESULTS}/{{corpus}}/corpus/spec.json",
        program=program("build_corpus"),
    output:
        manifest=f"{RESULTS}/{{corpus}}/corpus/manifest.json",
        data=directory(f"{RESULTS}/{{corpus}}/corpus/data"),
    log:
        f"{RESULTS}/logs/{{corpus}}/corpus.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{corpus}}/corpus.tsv"
    retries: RETRIES
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
        calibration=demands,
    params:
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m scripts.build_corpus --spec {input.spec:q} --out {params.out:q} --calibration={resources.calibration:q} &> {log:q}"
