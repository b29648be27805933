"""A GPU that computes on the CPU, so that what programs do on a GPU can be run where there is none.

Tensors on it say `cuda:0`, hold their numbers in a CPU tensor, and refuse what a GPU refuses: an operation on tensors of both
devices, `numpy()`. torch's own autograd and autocast see a CUDA device. Every read of a number, for which a host would have to
wait, is counted with the line that made it.

What it does not tell: whether a kernel exists on a GPU, how it rounds, how much memory and time it takes. Where a library has a
kernel of its own for GPUs (bitsandbytes, GPTQModel), the one for CPUs runs in its place.

library.py has torch believe that a CUDA device is there, driver.py answers for torch.cuda, tensors.py is the device;
`python -m tests.simulated_gpu CALLS.json` runs programs on it. Needs g++.
"""
