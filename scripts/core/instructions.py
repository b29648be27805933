"""The same rounding on x86 processors with AVX-512 as on those without.

torch and MKL choose kernels by what a processor can do, and those for AVX-512 add up softmax and attention in another order. A
difference in the last bit is enough for a training to go another way: the demo's target comes out as two different models with the
two kinds of kernels, which differ in how soon they forget (docs/measurements/targets.md). What a CPU computes should depend on the
configuration alone, so programs ask for the kernels of AVX2, unless the variables are set already.
"""

import os
from pathlib import Path

KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}  # read when torch and MKL first compute
PROCESSORS = Path("/proc/cpuinfo")


def alike(environment=os.environ, processors: Path = PROCESSORS) -> None:
    """Set KERNELS in this process's environment where the processor has AVX-512. Call it before torch computes anything."""
    try:
        with processors.open(encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return
    if "avx512f" in flags:
        for name, value in KERNELS.items():
            environment.setdefault(name, value)
