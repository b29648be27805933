"""Which schemes will give back what is unlearned with bf16 weights at a sweep's learning rates, from the target's weights alone.

A step of about the learning rate moves a bf16 weight only where |w| is below 2⁸ to 2⁹ times the rate (bf16 has 8 significant
bits). Printed for each scheme: where its innermost code ends (|w|, median over blocks and matrices), and this over 2⁸ times each
rate. Above 2 the scheme cannot see what moved, and gives back what was unlearned; below 1 it sees it; between, it gives back a
part. So it was on small models (docs/measurements/rates.md).
"""

from pathlib import Path
from statistics import median

from scripts.core import process, registry
from scripts.core.planning import sweep

BITS = 8  # significant bits of bf16


def ends(checkpoint: Path, schemes: dict) -> dict:
    """{scheme: median |w| at which its innermost code ends} for a folder of safetensors, without those that do not tell it.

    ValueError, with the scheme's key, where one cannot take the model's layers.
    """
    from scripts.mechanism import Tensors

    plugins = {name: registry.load("quantizers", scheme["kind"]) for name, scheme in schemes.items()}
    weights, found = Tensors(checkpoint), {}
    for layer in weights.matrices():
        weight = weights.get(f"{layer}.weight")
        for name, plugin in plugins.items():
            if not hasattr(plugin, "held"):
                continue
            try:
                found.setdefault(name, []).append(plugin.held(weight, schemes[name])[2])
            except ValueError as error:
                raise ValueError(f"schemes.{name}: {error}") from error
    return {name: median(values) for name, values in found.items() if None not in values}


def rates(plan) -> list[str]:
    """The learning rates of a sweep's unlearning with bf16 weights, as the configuration spells them, from small to large."""
    trainings = [run.spec["training"] for run in plan.runs.values() if run.stage == "unlearn" and "training" in run.spec]
    return sorted({one["lr"] for one in trainings if one.get("weights") == "bf16"}, key=float)


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = sweep.parser("foresee", __doc__)
    parser.add_argument("--model", type=Path, required=True, help="the target: its run folder, or any folder of safetensors")
    options = parser.parse_args(argv)
    plan = sweep.read(*options.config)
    spelled = rates(plan)
    if not spelled:
        raise ValueError(
            "--config: nothing is unlearned with bf16 weights; allowed: a sweep with `weights: bf16`, whose rates decide"
        )
    made = options.model / "checkpoint"
    found = ends(made if made.is_dir() else options.model, plan.config["schemes"])
    print(f"{'scheme':24s} {'code ends at':>12s}" + "".join(f" {f'lr {rate}':>11s}" for rate in spelled))
    for name, end in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{name:24s} {end:12.5f}" + "".join(f" {end / (2**BITS * float(rate)):11.2f}" for rate in spelled))
    print("\nAbove 2: the scheme cannot see what the rate moves in bf16, and gives it back. Below 1: it sees it. Between: in part.")
    if silent := [name for name in plan.config["schemes"] if name not in found and name != "full"]:
        print(f"Not known before the model is quantized: {', '.join(silent)}")
    return 0


if __name__ == "__main__":
    process.tell(main)
