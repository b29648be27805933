# What jobs are given: memory, time, GPUs, attempts. None of it decides a result.

from scripts.core.planning import calibration
from scripts.core.planning import memory

site = config["resources"]
# On a cluster each job is a Snakemake in a Snakemake: only the outermost, which can ask for more, tries again.
RETRIES = site["retries"] if workflow.is_main_process else 0
GPU_MODEL = (site["gpu_model"] or "") if site["gpus"] else ""  # alone it would be asked for as --gpus=<model>:0
THREADS = max(site["threads"], site["gpus"])  # of a training: a core for each of its processes on a node
# How many processes a training has, and how they share it. On several nodes the job is one of the kind "mpi": then the launcher's
# own srun starts on each node.
RANKS = {"gpu": site["gpus"] * site["nodes"], "processes": site["gpus"], "hosts": site["nodes"]}
RANKS |= {"zero": site["zero"], "offload": site["offload"], "gpu_gb": site["gpu_gb"]}
if site["nodes"] > 1:
    RANKS |= {"nodes": site["nodes"], "mpi": "srun", "tasks": site["nodes"], "tasks_per_gpu": 0}
# The same as options of scripts/launch.py.
LAUNCH = " ".join(
    f"--{option} {{resources.{name}}}"
    for option, name in {"gpus": "processes", "nodes": "hosts", "zero": "zero", "offload": "offload", "gpu-gb": "gpu_gb"}.items()
)


def billions(wildcards):
    """Size of a corpus's model in 10^9 parameters."""
    return memory.billions(config["corpora"][wildcards.corpus]["model"])


def mem_mb(gb_per_billion):
    """Memory of a job: grows with the model and with each attempt, capped by the site's limit."""

    def amount(wildcards, attempt):
        need = (4 + gb_per_billion * billions(wildcards)) * 1024 * attempt
        return int(min(need, site["max_mem_mb"]))

    return amount


# Of a training. On a resume each process on a node reads all saved weights into the host's memory, fp32 at most (DeepSpeed does so).
TRAINING_MB = mem_mb(20 + 4 * max(0, site["gpus"] - 1))


def runtime(share):
    """Minutes of a job: `share` of a training's assumed time, growing with each attempt, capped by the site's limit."""

    def amount(wildcards, attempt):
        need = (15 + 60 * share * site["hours_per_billion"] * billions(wildcards)) * attempt
        return int(min(need, site["max_runtime"]))

    return amount


def unless_copied(**resources):
    """Resources of the target and retrain models: as given where they are trained; a published one is copied, without a GPU."""
    copying = {"gpu": 0, "gpu_model": "", "mem_mb": mem_mb(1), "runtime": runtime(0.3)}
    copying |= {"nodes": 1, "tasks": 1, "mpi": ""}  # "": no job of several tasks

    def either(training, copy):
        def amount(wildcards, attempt):
            published = config["corpora"][wildcards.corpus]["model"]["kind"] == "pretrained"
            chosen = copy if published else training
            return chosen(wildcards, attempt) if callable(chosen) else chosen

        return amount

    return {name: either(value, copying[name]) if name in copying else value for name, value in resources.items()}


def gpus_of(scheme):
    """GPUs of the job that quantizes under a scheme: none where its library uses none."""
    hardware = registry.constants("quantizers", config["schemes"][scheme]["kind"])["HARDWARE"]
    return min(1, site["gpus"]) if "cuda" in hardware else 0


def demands(wildcards):
    """What the sweep's calibration sets ask of a corpus's text, for checks before any training (planning/calibration.py)."""
    return calibration.demands(PLAN, wildcards.corpus)
