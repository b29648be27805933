"""Put this process's torch on the simulated GPU, before torch is imported."""

import os

from tests.simulated_gpu import library


def start(path, several=False):
    """Load device.cpp's library (`path`) and begin; returns the module `tensors`. several: this is a rank of torchrun.

    Ranks exchange through gloo in place of NCCL; their group has to be there before the device is.
    """
    library.load(path)
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # a mode of torch does not reach into the threads in which transformers would load
    from tests.simulated_gpu import driver, tensors

    driver.install()
    if several:
        import torch

        torch.distributed.init_process_group("gloo")
        os.environ["DS_ACCELERATOR"] = "cuda"
    tensors.start()
    return tensors
