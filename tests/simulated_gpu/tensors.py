"""The device: tensors that say cuda:0 and compute on the CPU."""

import functools
import os
import threading
import traceback
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map

GPU = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
aten = torch.ops.aten
# Operations whose result the host has to wait for: it is a number, or its size is one.
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
COPYING = {aten._to_copy.default, aten.copy_.default}
# Operations that take indices on the CPU, too.
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}

waits = Counter()  # "file:line" → how often a number was read there


class OnGpu(torch.Tensor):
    """A tensor of the device; `held` has its numbers."""

    @staticmethod
    def __new__(cls, held, requires_grad=None, **_):
        if requires_grad is not None:  # accelerate makes a parameter anew by its type, which is this class for one of the device
            return torch.nn.Parameter(held, requires_grad)
        layout = {"dtype": held.dtype, "layout": held.layout, "device": GPU}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), held.storage_offset(), **layout)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})

    def __deepcopy__(self, memo):
        copied = OnGpu(self.held.clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol):
        return self.held.__reduce_ex__(protocol)  # files are read to the CPU

    def __repr__(self):
        return f"OnGpu({self.held})"

    def _set_data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    data = property(torch.Tensor.data.__get__, _set_data)  # `tensor.data = other`

    def tolist(self):
        """Numbers of all elements: one wait."""
        wait()
        return self.held.tolist()

    def numpy(self, *_, **__):
        """Refused, as torch does."""
        raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    def data_ptr(self):
        """Where the numbers are, which tells tensors apart that share them."""
        return self.held.data_ptr()

    def untyped_storage(self):
        """The storage of the numbers."""
        return self.held.untyped_storage()


class Device(TorchDispatchMode):
    """Operations under it may name the device: torch.zeros(2, device="cuda")."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def start() -> Device:
    """Prepare torch for these tensors and enter the mode for the rest of the process."""
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") first makes one on the CPU
    torch.__future__.set_swap_module_params_on_conversion(True)  # module.to("cuda") puts other tensors into its parameters
    torch.utils.swap_tensors = functools.partial(_swap, torch.utils.swap_tensors)
    torch.Tensor._make_subclass = staticmethod(_staying(torch.Tensor._make_subclass))
    threading.Thread.run = functools.partialmethod(_run, threading.Thread.run)
    return Device().__enter__()


def _staying(usual):
    """torch.Tensor._make_subclass, as bitsandbytes makes its parameters: one of the device stays of the device."""

    @functools.wraps(usual)  # torch._dynamo compares signatures
    def make(kind, data, requires_grad=False):
        if not isinstance(data, OnGpu):
            return usual(kind, data, requires_grad)
        return OnGpu.__new__(_on_gpu(kind), data.held).requires_grad_(requires_grad)

    return make


@functools.cache
def _on_gpu(kind):
    return type(kind.__name__, (kind, OnGpu), {})


def _run(thread, usual) -> None:
    """A thread's work, under a mode of its own."""
    torch._C._set_only_lift_cpu_tensors(True)
    with Device():
        usual(thread)


def _swap(usual, parameter, new) -> None:
    """torch.utils.swap_tensors, which refuses a parameter that something refers to weakly, as DeepSpeed does."""
    if isinstance(parameter, OnGpu) and isinstance(new, OnGpu):
        parameter.data = new.data
    else:
        usual(parameter, new)


def compute(function, args, kwargs):
    """An operation on CPU tensors in place of the device's. RuntimeError where tensors of both devices meet."""
    if function is aten._pin_memory.default:
        return args[0].clone()
    if function is aten.is_pinned.default:
        return False
    if function._can_decompose():  # made of other operations; without autograd (inference_mode) torch leaves that to us
        with Device():
            return function.decompose(*args, **kwargs)
    tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
    here = any(isinstance(one, OnGpu) for one in tensors)
    kwargs = {**kwargs, "pin_memory": False} if kwargs.get("pin_memory") else kwargs
    made_here = here
    if kwargs.get("device") is not None:
        made_here = torch.device(kwargs["device"]).type == "cuda"
        kwargs = {**kwargs, "device": torch.device("cpu")} if made_here else kwargs
    if function is aten.copy_.default:
        made_here = isinstance(args[0], OnGpu)
    elif here and function is not aten._to_copy.default:
        check(function, args, tensors)
    if here and (function in WAITING or function in COPYING and not made_here):
        wait()
    if not made_here and function is not aten._to_copy.default:
        return function(*tree_map(_held, args), **tree_map(_held, kwargs))
    with torch.inference_mode(False):  # what is made in that mode can be no view of the rest, and no parameter after it
        result = function(*tree_map(_held, args), **tree_map(_held, kwargs))
        return return_and_correct_aliasing(function, args, kwargs, tree_map(_placed, result)) if made_here else result


def check(function, args, tensors) -> None:
    """RuntimeError for a CPU tensor beside one of the device, unless it is a single number, or an index."""
    indices = args[1] if function in INDEXED and isinstance(args[0], OnGpu) else ()
    for one in tensors:
        if not isinstance(one, OnGpu) and one.dim() and not any(one is index for index in indices):
            shape = tuple(one.shape)
            raise RuntimeError(
                f"{function}: Expected all tensors to be on the same device, but found a cpu tensor {shape} beside {GPU}"
            )


def wait() -> None:
    """Count a read of a number under the line of the project, or else of a library, that asked for it."""
    frames = [
        frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename and "simulated_gpu" not in frame.filename
    ]
    own = [frame for frame in frames if "/scripts/" in frame.filename] or frames
    waits[f"{own[-1].filename.rpartition('/scripts/')[2]}:{own[-1].lineno}"] += 1


def _held(one):
    return one.held if isinstance(one, OnGpu) else one


def _placed(one):
    return OnGpu(one) if isinstance(one, torch.Tensor) else one
