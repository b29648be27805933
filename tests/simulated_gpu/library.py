"""The C++ part (device.cpp): compiled, and loaded before torch, which asks only once what a CUDA device is like."""

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")


def compile(folder) -> Path:
    """Build device.cpp into a folder (a second or two); returns the library. Needs g++."""
    torch, library = _torch(), Path(folder) / "device.so"
    command = ["g++", "-std=c++20", "-shared", "-fPIC", f"-I{torch / 'include'}", SOURCE, f"-L{torch / 'lib'}"]
    subprocess.run([*map(str, command), "-ltorch_cpu", "-lc10", "-o", str(library)], check=True)
    return library


def load(library) -> None:
    """Load torch's libraries and then ours, in a process that has not imported torch."""
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already")
    folder = _torch() / "lib"
    ctypes.CDLL(str(folder / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
    for path in (folder / "libtorch_cpu.so", library):
        ctypes.CDLL(str(path))


def _torch() -> Path:
    return Path(importlib.util.find_spec("torch").submodule_search_locations[0])
