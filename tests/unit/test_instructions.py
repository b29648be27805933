"""Programs compute with the kernels of AVX2, also where the processor has AVX-512."""

import os
import subprocess
import sys

import pytest

from scripts.core import instructions
from scripts.core.registry import SCRIPTS

WITH, WITHOUT = "flags\t\t: fpu avx2 avx512f avx512bw\n", "flags\t\t: fpu avx avx2 fma\n"


@pytest.mark.parametrize(("text", "expected"), [(WITH, instructions.KERNELS), (WITHOUT, {}), ("Features : neon\n", {})])
def test_only_avx_512_is_left_out(text, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n" + text)
    found = {}
    instructions.alike(found, tmp_path / "cpuinfo")
    assert found == expected
    instructions.alike(found, tmp_path / "missing")
    assert found == expected


def test_what_is_set_stays(tmp_path):
    (tmp_path / "cpuinfo").write_text(WITH)
    found = {"ATEN_CPU_CAPABILITY": "avx512"}
    instructions.alike(found, tmp_path / "cpuinfo")
    assert found["ATEN_CPU_CAPABILITY"] == "avx512"


def test_a_program_s_softmax_has_the_bits_of_avx2():
    """On a processor without AVX-512, or another than x86, it has them anyhow."""
    code = (
        "import torch; x = torch.randn(64, 257, generator=torch.Generator().manual_seed(0)); print(x.softmax(-1).sum(0).tolist())"
    )
    plain = {name: value for name, value in os.environ.items() if name not in instructions.KERNELS}
    processors = instructions.PROCESSORS
    capped = plain | instructions.KERNELS if processors.exists() and "avx512f" in processors.read_text() else plain

    def shown(code, environment):
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=SCRIPTS.parent, capture_output=True, check=True
        ).stdout

    assert shown("import scripts; " + code, plain) == shown(code, capped)
