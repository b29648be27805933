"""The same rounding on x86 processors with AVX-512 as on those without.

torch and MKL choose kernels by what a processor can do, and those for AVX-512 add up softmax and attention in another order. From
the last bit on a training goes its own way: the demo's target, trained with either, is not one model but two, which differ in how
soon they forget (docs/measurements/targets.md). What a CPU computes is to depend on the configuration alone, so programs ask for
the kernels of AVX2, unless whoever starts them has set the same variables.
"""

import os
from pathlib import Path

KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}  # read when torch and MKL first compute
PROCESSORS = Path("/proc/cpuinfo")


def alike(environment=os.environ, processors: Path = PROCESSORS) -> None:
    """Set KERNELS in this process's environment where the processor has AVX-512; to be called before torch computes anything."""
    try:
        with processors.open(encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return
    if "avx512f" in flags:
        for name, value in KERNELS.items():
            environment.setdefault(name, value)
