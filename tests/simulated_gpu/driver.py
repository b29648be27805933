"""What torch.cuda answers: one device of 80 GiB."""

import os
from types import SimpleNamespace

import torch

MEMORY = 80 << 30  # bytes
NAME = "simulated GPU"
ANSWERS = {
    "_lazy_init": None,
    "is_available": True,
    "is_initialized": True,
    "device_count": int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
    "current_device": int(os.environ.get("LOCAL_RANK", 0)),
    "set_device": None,
    "synchronize": None,
    "empty_cache": None,
    "mem_get_info": (MEMORY, MEMORY),
    "get_device_name": NAME,
    "get_device_capability": (9, 0),
    "get_device_properties": SimpleNamespace(name=NAME, total_memory=MEMORY, major=9, minor=0, multi_processor_count=132),
    "is_bf16_supported": True,
    "memory_allocated": 0,
    "memory_reserved": 0,
    "max_memory_allocated": 0,
    "max_memory_reserved": 0,
    "memory_stats": {},
    "reset_peak_memory_stats": None,
    "manual_seed": None,
    "manual_seed_all": None,
    "set_rng_state": None,
    "set_rng_state_all": None,
    "_cuda_getCurrentRawStream": 0,
}


class Nothing:
    """A stream, an event or a device's context: nothing is queued here, so nothing is waited for."""

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, name):
        return _giving(True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def install() -> None:
    """Have torch.cuda give ANSWERS; no random numbers are drawn on the device, so its generator has a state of zeros."""
    states = lambda *_: torch.zeros(16, dtype=torch.uint8)  # noqa: E731
    answers = {name: _giving(value) for name, value in ANSWERS.items()}
    answers |= {"get_rng_state": states, "get_rng_state_all": lambda *_: [states()]}
    for name, answer in answers.items():
        for module in (torch.cuda, torch.cuda.memory, torch.cuda.random):
            if hasattr(module, name):
                setattr(module, name, answer)
    torch._C._cuda_getCurrentRawStream = answers["_cuda_getCurrentRawStream"]
    for name in ("Stream", "Event", "device"):
        setattr(torch.cuda, name, type(name, (Nothing,), {}))
    for name in ("stream", "current_stream", "default_stream"):
        setattr(torch.cuda, name, Nothing)
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = _giving(0)


def _giving(value):
    return lambda *_, **__: value
