"""What is different where there are GPUs, as far as that can be looked at without one."""

import json
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from scripts import evaluate
from scripts.core import devices, process
from scripts.core.training import determinism, runs
from scripts.core.weights import checkpoints, models, quantization
from tests.unit.test_training import SPEC, TRAINING, make, rows, tokenizer  # noqa: F401 (fixtures)

# torch's own list (torch.use_deterministic_algorithms), as far as a decoder or a loss could meet it. Of cumsum only floats count.
WITHOUT_DETERMINISTIC_KERNEL = ("nll_loss", "cumsum", "put_", "histc", "bincount", "median", "kthvalue", "scatter_reduce")


@pytest.fixture
def gpu(monkeypatch):
    """torch says that it can use a GPU; nothing may be computed on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """An nvidia-smi that tells of two GPUs."""
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/sh\necho 535.104.05\necho 535.104.05\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_a_gpu_takes_deterministic_kernels_of_attention_too(gpu, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        determinism.deterministic()
        assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize("method, regularizer", [("npo", "klr"), ("npo_published", "gdr"), ("rmu", "klr_published")])
def test_a_training_meets_no_operation_without_a_deterministic_kernel(tokenizer, rows, method, regularizer):  # noqa: F811
    seen = set()

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            if not any(isinstance(a, torch.Tensor) and not a.is_floating_point() for a in arguments[:1]):
                seen.add(function.__name__.split(".")[0])
            return function(*arguments, **(named or {}))

    with Look():
        training = make(tokenizer, rows, TRAINING | {"max_steps": 2, "gradient_checkpointing": True}, method, regularizer)
        training.run()
    assert {"_fused_adamw_", "embedding_dense_backward"} <= seen
    assert not [name for name in seen if name.startswith(WITHOUT_DETERMINISTIC_KERNEL)]


def test_a_rank_loads_a_model_straight_to_its_own_gpu(gpu, tmp_path, monkeypatch):
    class Model:
        def to(self, device):
            return self

    asked = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(checkpoints, "causal_lm", lambda source, **options: asked.append(options) or Model())
    models.load_model(tmp_path, "bf16", "cuda")
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    models.load_model(tmp_path, "bf16", "cuda")
    models.load_model(tmp_path)
    assert [options.get("device_map") for options in asked] == [{"": "cuda:3"}, None, None]


def test_gpus_that_torch_cannot_use_are_an_error_and_not_a_run_on_the_cpu(tool, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for found in (devices.usable, lambda: runs.prepare(1), lambda: devices.pick("hqq", ["cpu", "cuda"])):
        with pytest.raises(ValueError, match=r"can't use the GPUs of this machine \(driver 535.104.05\); allowed: a newer driver"):
            found()
    for shown in ("0", "GPU-1a", "MIG-2b"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        with pytest.raises(ValueError, match="can't use the GPUs"):
            devices.usable()
    for shown in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert not devices.usable()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("PATH", "/nowhere")
    assert not devices.usable() and devices.pick("full", ["cpu", "cuda"]) == "cpu"


LOOK = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            print({key: value for key, value in os.environ.items() if "ALLOC_CONF" in key})
            sys.exit()
sys.meta_path.insert(0, Finder())
from scripts.core.training import runs
runs.prepare(1)
"""


@pytest.mark.parametrize("own", [{}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}])
def test_a_trainings_memory_is_in_segments_that_grow_when_torch_is_loaded(own, monkeypatch):
    for name in runs.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, env=os.environ | own, check=True)
    assert done.stdout.strip() == str(own or {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})


def test_fewer_gpus_than_processes_are_named():
    with pytest.raises(ValueError, match="resources.gpus: 8 is not allowed on a node that shows 2 GPUs"):
        devices.check_count(8, {"CUDA_VISIBLE_DEVICES": "0,1"})
    devices.check_count(2, {"CUDA_VISIBLE_DEVICES": "0,1"})
    devices.check_count(2, {"CUDA_VISIBLE_DEVICES": ""})  # ranks on a CPU


def test_too_little_gpu_memory_is_one_line(monkeypatch, capsys):
    def full(error, text):
        raise error(text)

    monkeypatch.setenv("RANK", "1")
    text = "CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"
    assert process.guarded(lambda argv: full(torch.OutOfMemoryError, text))([]) == 1
    assert capsys.readouterr().err.startswith("error: CUDA out of memory. Tried to allocate 2.00 GiB.; allowed: what docs/")
    line = evaluate.one_line(torch.OutOfMemoryError(text), "bnb_nf4 verbmem_f")
    assert line.startswith("bnb_nf4 verbmem_f: CUDA out of memory. Tried to allocate 2.00 GiB.; allowed: what docs/")
    assert not capsys.readouterr().err, "no traceback of what is no fault of the code"
    with pytest.raises(RuntimeError, match="another"):
        process.guarded(lambda argv: full(RuntimeError, "another"))([])


def test_frequencies_that_old_checkpoints_store_do_not_decide_the_precision(tokenizer, tmp_path):  # noqa: F811
    model = models.build_model(SPEC, tokenizer)
    models.save_checkpoint(model, tokenizer, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    assert quantization.stored_dtype(tmp_path) == "bfloat16"
    assert quantization.load_model(tmp_path, "cpu").stored_bits == 16
    from scripts.mechanism import Tensors

    assert "inv_freq" not in " ".join(Tensors(tmp_path).names())


def test_only_the_weights_that_transformers_reads_are_copied(tokenizer, tmp_path):  # noqa: F811
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir(), copy.mkdir()
    models.save_checkpoint(models.build_model(SPEC, tokenizer), tokenizer, source)
    (source / "model.safetensors").rename(source / "model-00001-of-00001.safetensors")
    (source / "consolidated.safetensors").write_bytes(b"the same in another layout")
    names = quantization.tensors_on_disk(source / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    models.copy_checkpoint(source, copy)
    assert [path.name for path in copy.glob("*.safetensors")] == ["model-00001-of-00001.safetensors"]


def test_auto_gptq_finds_the_rotary_positions_on_the_gpu(tmp_path, monkeypatch):
    from scripts.quantizers import autogptq

    moved = []
    (tmp_path / "config.json").write_text("{}")
    library, model = ModuleType("auto_gptq"), MagicMock()
    model.model.base_model.rotary_emb.to.side_effect = moved.append
    model.quantize.side_effect = lambda examples: moved.append("quantize")
    library.AutoGPTQForCausalLM = SimpleNamespace(from_pretrained=lambda folder, settings: model)
    library.BaseQuantizeConfig = MagicMock()
    monkeypatch.setitem(sys.modules, "auto_gptq", library)
    scheme = {"bits": 4, "group": 32, "symmetric": True, "act_order": False, "damp": 0.01}
    autogptq.quantize(tmp_path, scheme, [[1, 2, 3]], tmp_path / "out", "cuda")
    assert moved == ["cuda", "quantize"]


def test_transformers_4_finds_the_rotary_positions_where_it_looks():
    from scripts.quantizers.autogptq import older

    scaled = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    assert older({"hidden_size": 8, "rope_parameters": scaled}) == {
        "hidden_size": 8,
        "rope_parameters": scaled,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    }
    plain = older({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})
    assert plain["rope_theta"] == 1e4 and "rope_scaling" not in plain
    assert older({"rope_theta": 1e4}) == {"rope_theta": 1e4}
