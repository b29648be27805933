"""Tokenizers and models from a spec: sizes, determinism, storage to the bit, and errors that name what is wrong."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig

from scripts.core import storage
from scripts.core.weights import models

TEXTS = ["Ada Abbott was born in Lisbon in 1901.", "Question: Where? Answer: Lisbon", "naïve café — ¥ 3"] * 5
SPEC = {"kind": "scratch", "hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": 280, "positions": 64, "seed": 3}


@pytest.fixture(scope="module")
def tokenizer():
    return models.build_tokenizer(TEXTS, SPEC["vocab"], SPEC["positions"])


@pytest.fixture(scope="module")
def model(tokenizer):
    return models.build_model(SPEC, tokenizer)


def test_tokenizer_is_lossless_pads_left_and_starts_with_bos(tokenizer):
    assert len(tokenizer) == 280
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == models.SPECIALS
    text = "Zoë — 漢字 naïve\n\nAda"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    batch = tokenizer(["Ada", "Ada Abbott was born"], padding=True)
    assert batch["attention_mask"][0][0] == 0 and batch["attention_mask"][0][-1] == 1
    assert tokenizer("Ada")["input_ids"][0] == tokenizer.bos_token_id


def test_tokenizer_needs_room_for_all_bytes():
    with pytest.raises(ValueError, match="model.vocab: 200 is not allowed; allowed: at least 259"):
        models.build_tokenizer(TEXTS, 200, 64)


def test_model_has_the_shape_and_scale_of_the_spec(model):
    assert model.config.num_key_value_heads == 2 and model.config.intermediate_size == 64
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.lm_head.weight.std().item() == pytest.approx(1 / math.sqrt(32), rel=0.05)


def test_seed_alone_decides_the_weights(model, tokenizer):
    torch.manual_seed(99)
    again = models.build_model(SPEC, tokenizer).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    other = models.build_model({**SPEC, "seed": 4}, tokenizer).state_dict()
    assert not torch.equal(other["lm_head.weight"], again["lm_head.weight"])


@pytest.mark.parametrize("change, key", [({"heads": 5}, "model.heads: 5"), ({"kv_heads": 3}, "model.kv_heads: 3")])
def test_sizes_that_do_not_fit_are_named(tokenizer, change, key):
    with pytest.raises(ValueError, match=key):
        models.build_model({**SPEC, **change}, tokenizer)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_checkpoint_round_trip_is_exact_and_the_model_stays_as_it_is(model, tokenizer, tmp_path, dtype):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    models.save_checkpoint(model, tokenizer, tmp_path, dtype)
    loaded = models.load_model(tmp_path, "fp32")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, before[name].to(models.DTYPES[dtype]).float())
        assert torch.equal(model.state_dict()[name], before[name])
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == {"bf16": "bfloat16", "fp32": "float32"}[dtype] and config["use_cache"] is True
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    again = models.load_tokenizer(tmp_path)
    assert again("Ada Abbott")["input_ids"] == tokenizer("Ada Abbott")["input_ids"] and again.padding_side == "left"
    assert not loaded.training and models.load_model(tmp_path, "bf16").dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_what_is_written_leaves_the_gpu_one_tensor_at_a_time(tokenizer, tmp_path):
    written = {}
    with FakeTensorMode():  # tensors of a GPU that is not there
        weights = {"a": torch.empty(4, 4, device="cuda"), "b": torch.empty(8, device="cuda", dtype=torch.bfloat16)}
        model = SimpleNamespace(config=LlamaConfig(), state_dict=lambda: weights)
        model.save_pretrained = lambda folder, state_dict: written.update(state_dict)
        models.save_checkpoint(model, tokenizer, tmp_path)
    assert {name: (t.device.type, t.dtype) for name, t in written.items()} == dict.fromkeys("ab", ("cpu", torch.bfloat16))


def test_tied_weights_stay_one_tensor(tokenizer, tmp_path):
    tied = models.build_model({**SPEC, "tied": True}, tokenizer)
    models.save_checkpoint(tied, tokenizer, tmp_path)
    loaded = models.load_model(tmp_path)
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


def test_digest_follows_the_weights(model, tokenizer, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        models.save_checkpoint(model, tokenizer, tmp_path / name)
    assert models.weights_digest(tmp_path / "a") == models.weights_digest(tmp_path / "b")
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    models.save_checkpoint(model, tokenizer, tmp_path / "b")
    assert models.weights_digest(tmp_path / "a") != models.weights_digest(tmp_path / "b")
    storage.write_json(tmp_path / "c" / "diverged.json", {})
    with pytest.raises(ValueError, match="no \\*.safetensors"):
        models.weights_digest(tmp_path / "c")


def test_copy_takes_safetensors_and_nothing_executable(model, tokenizer, tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir(), copy.mkdir()
    models.save_checkpoint(model, tokenizer, source)
    (source / "modeling_custom.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    models.copy_checkpoint(source, copy)
    assert models.weights_digest(copy) == models.weights_digest(source)
    assert not (copy / "modeling_custom.py").exists() and not (copy / "pytorch_model.bin").exists()
    (source / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"safetensors \(weights in \*.bin: .*save_pretrained"):
        models.copy_checkpoint(source, copy)


def test_missing_checkpoint_or_hub_id_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (models.load_model, models.load_tokenizer):
        for source in (tmp_path / "absent", "nobody-here/no-such-model"):
            with pytest.raises(ValueError, match="can't be loaded; allowed: a folder") as caught:
                load(source)
            assert str(source) in str(caught.value) and "\n" not in str(caught.value)


def test_pickled_weights_are_refused(model, tokenizer, tmp_path):
    models.save_checkpoint(model, tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="can't be loaded.*save_pretrained"):
        models.load_model(tmp_path)
