"""The most bytes that tensors took at one time.

On a GPU the allocator keeps that number. On a CPU it doesn't: what is held at the start is counted over all tensors alive, and
torch's profiler notes every allocation and release from there on; the largest value of the running sum is the peak. Unlike the
process's resident size this leaves out libraries, Python's objects, mapped files, and what the C allocator keeps for later, which
for a small model are larger than the model.
"""

import gc
import json
import tempfile
import warnings
from pathlib import Path


def held() -> int:
    """Bytes of all tensors alive on the CPU, each storage once, mapped files left out."""
    import torch

    gc.collect()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at every object wakes up deprecated attributes
        for one in gc.get_objects():
            if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device.type == "cpu":
                storage = one.untyped_storage()
                if storage.filename:
                    continue  # a mapped file: the system drops its pages when memory is short
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def peak(work, device: str, before: int = 0) -> int:
    """Bytes at the peak of `work()`, less `before`: what `held()` said of things that are not part of it (on a CPU)."""
    import torch

    if device == "cuda":
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    from torch.profiler import ProfilerActivity, profile

    most = running = held() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = [event for event in events if event.get("name") == "[memory]"]
    for event in sorted(events, key=lambda event: event["ts"]):
        running += event["args"]["Bytes"]
        most = max(most, running)
    return most
