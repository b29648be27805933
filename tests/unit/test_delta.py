"""Checkpoints as differences from their target: every bit comes back, and what is damaged is told apart in one line."""

import errno
import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts import export
from scripts.core import registry, storage
from scripts.core.weights import bitcode, checkpoints, delta, models, quantization

SHAPE = {"hidden": 16, "layers": 1, "heads": 2, "vocab": 300, "positions": 32, "seed": 0}


def folders(tmp_path, target: dict, own: dict):
    """(target folder, folder of the run's checkpoint before packing, copy of the latter)."""
    for name, tensors in (("target", target), ("run", own)):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        save_file(tensors, tmp_path / name / "checkpoint" / "model.safetensors", {"format": "pt"})
    shutil.copytree(tmp_path / "run" / "checkpoint", tmp_path / "before")
    return tmp_path / "target" / "checkpoint", tmp_path / "run" / "checkpoint", tmp_path / "before"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in type, shape and every bit, NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and bool((delta.octets(a) == delta.octets(b)).all())


def weights(dtype, seed=0, n=5000):
    """Tensors of odd, empty and large shapes, with every kind of special value."""
    draw = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan")])
    return {
        "large": torch.randn(n, generator=draw).to(dtype),
        "odd": torch.randn(3, 7, 1, generator=draw).to(dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
        "scalar": torch.tensor(1.5, dtype=dtype),
        "special": special.to(dtype),
        "mask": torch.rand(9, generator=draw) > 0.5,
        "steps": torch.arange(11),
    }


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_bit_comes_back(tmp_path, monkeypatch, dtype, share):
    monkeypatch.setattr(delta, "CHUNK", 1024)  # several chunks, the last one short
    old = weights(dtype)
    new = {name: tensor.clone() for name, tensor in old.items()}
    moved = torch.rand(5000, generator=torch.Generator().manual_seed(1)) < share
    new["large"][moved] = weights(dtype, seed=2)["large"][moved]
    new["large"].view(torch.uint8)[:8] = 255  # a NaN with a payload, and a negative one
    new["special"] = new["special"].flip(0)
    target, run, before = folders(tmp_path, old, new)
    sizes = delta.pack(run, target)
    assert [path.name for path in run.iterdir()] == ["delta.safetensors"]
    assert sizes["stored"] == (run / delta.FILE).stat().st_size
    codings = {coding for coding, _ in delta.Delta(run).records["large"]["chunks"]}
    assert codings <= {0.0: {"same", "steps"}, 0.1: {"steps"}, 1.0: {"dense"}}[share]
    found = delta.Delta(run).tensors()
    assert found.keys() == new.keys() and all(same(found[name], new[name]) for name in new)
    assert quantization.tensors_on_disk(run) == quantization.tensors_on_disk(before)
    assert models.weights_digest(run) == models.weights_digest(before)
    checkpoints.restore(run, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()


def test_other_type_shape_or_name_than_the_target(tmp_path):
    old = {"a": torch.randn(50), "b": torch.randn(5, 4), "whole": torch.arange(6)}
    new = {"a": old["a"].bfloat16(), "b": torch.randn(6, 4), "whole": torch.randn(6), "new": torch.randn(40)}
    target, run, before = folders(tmp_path, old, new)
    delta.pack(run, target)
    packed = delta.Delta(run)
    assert packed.records["a"]["chunks"] == [["same", 0]]  # rounded as unlearning rounds the target
    assert all(packed.records[name]["base"] is None for name in ("b", "whole", "new"))
    assert all(same(packed.tensor(name), tensor) for name, tensor in load_file(before / "model.safetensors").items())


def test_what_does_not_shrink_is_kept_as_it_is():
    new = np.random.default_rng(0).integers(0, 2**32, 300, dtype=np.uint32)
    assert bitcode.encode(new, new[::-1].copy()) == ("raw", new.tobytes())
    with pytest.raises(ValueError, match="4 bytes instead of 1200"):
        bitcode.decode("planes", bitcode.zstandard.ZstdCompressor().compress(b"1234"), None, new.copy())


def test_what_has_no_base_shrinks_by_itself():
    new = np.arange(3000, dtype=np.uint32) // 100
    coding, payload = bitcode.encode(new, None)
    out = np.empty_like(new)
    bitcode.decode(coding, payload, None, out)
    assert (out == new).all() and coding == "planes" and len(payload) < new.nbytes / 10
    with pytest.raises(ValueError, match="coding 'plain' is unknown"):
        bitcode.decode("plain", payload, None, out)


def test_what_changed_is_named_by_distances_or_by_a_bitmap():
    """A bitmap is also what files of this format had before distances."""
    draw = np.random.default_rng(0)
    base = draw.integers(0, 2**16, 200_000, dtype=np.uint16)
    for where, coding in ((draw.random(base.size) < 0.1, "steps"), (np.isin(np.arange(base.size), [7, 80_000]), "sparse")):
        new = np.where(where, base ^ 3, base)
        found, payload = bitcode.encode(new, base)
        assert found == coding
        raw = np.packbits(where).tobytes() + bitcode.planes((new ^ base)[where])
        for name, content in ((coding, payload), ("sparse", bitcode.zstandard.ZstdCompressor().compress(raw))):
            out = np.empty_like(base)
            bitcode.decode(name, content, base, out)
            assert (out == new).all()
    far = bitcode.planes(np.full(4, 60_000, "<u2")) + bitcode.planes(np.ones(4, np.uint16))
    with pytest.raises(ValueError, match="element 239999 of 200000"):
        bitcode.decode("steps", bitcode.zstandard.ZstdCompressor().compress(far), base, np.empty_like(base))
    with pytest.raises(ValueError, match="bytes instead of"):
        bitcode.decode("steps", bitcode.zstandard.ZstdCompressor().compress(far[:-1]), base, np.empty_like(base))


def test_what_changes_little_takes_little(tmp_path):
    old = {"w": torch.randn(256, 256).bfloat16()}
    new = {"w": torch.where(torch.rand(256, 256) < 0.15, old["w"] * 1.01, old["w"])}
    target, run, _ = folders(tmp_path, old, new)
    sizes = delta.pack(run, target)
    assert sizes["stored"] < 0.2 * sizes["full"]


def damage(path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_damaged_file_is_one_line(tmp_path):
    target, run, _ = folders(tmp_path, weights(torch.bfloat16), weights(torch.bfloat16, seed=1))
    delta.pack(run, target)
    file = run / delta.FILE
    good = file.read_bytes()
    large = file.stat().st_size - len(good[8 + int.from_bytes(good[:8], "little") :])
    for offset in (large + 5, large + 100, len(good) - 1):
        damage(file, offset)
        with pytest.raises(delta.DeltaError, match="is damaged .*; make the run again"):
            delta.Delta(run).tensors()
        file.write_bytes(good)
    for cut in (4, 100, len(good) - 3):
        file.write_bytes(good[:cut])
        with pytest.raises(delta.DeltaError, match="damaged"):
            delta.Delta(run).tensors()


def test_another_target_is_told_apart_from_damage(tmp_path):
    target, run, _ = folders(tmp_path, weights(torch.bfloat16), weights(torch.bfloat16, seed=1))
    delta.pack(run, target)
    save_file(weights(torch.bfloat16, seed=3), target / "model.safetensors")
    with pytest.raises(delta.DeltaError, match="another target than"):
        delta.Delta(run).tensor("large")
    (target / "model.safetensors").unlink()
    with pytest.raises(delta.DeltaError, match="its target .* is not there"):
        delta.Delta(run).tensor("large")
    with pytest.raises(delta.DeltaError, match="holds no"):
        delta.pack(run, target)


def test_threads_share_the_packing_of_a_large_tensor(tmp_path, monkeypatch):
    """Two chunks are encoded at the same time, or the barrier breaks."""
    barrier, encode = threading.Barrier(2, timeout=20), bitcode.encode
    monkeypatch.setattr(delta, "CHUNK", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(bitcode, "encode", lambda *arrays: (barrier.wait(), encode(*arrays))[1])
    values = {"w": torch.randn(2000)}
    for name, factor in (("target", 1), ("run", 1.5)):
        (tmp_path / name).mkdir()
        save_file({key: factor * value for key, value in values.items()}, tmp_path / name / "model.safetensors")
    delta.pack(tmp_path / "run", tmp_path / "target")
    assert torch.equal(delta.Delta(tmp_path / "run").tensor("w"), 1.5 * values["w"])


def test_what_is_not_read_back_equal_is_not_kept(tmp_path, monkeypatch):
    target, run, before = folders(tmp_path, weights(torch.bfloat16), weights(torch.bfloat16, seed=1))
    monkeypatch.setattr(delta.Delta, "octets", lambda self, name: np.zeros(1, np.uint8))
    with pytest.raises(RuntimeError, match="does not come back"), storage.whole_folder(tmp_path / "stored") as folder:
        shutil.copytree(run, folder, dirs_exist_ok=True)
        delta.pack(folder, target)
    assert (run / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "run", "target"]  # nothing is left behind


# Whole models: loaded as from a whole checkpoint, and exported.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A target, and runs beside it: tied embeddings, kept as a difference, and the same kept whole."""
    place = tmp_path_factory.mktemp("delta")
    tokenizer = models.build_tokenizer(["some text to learn an alphabet from"], SHAPE["vocab"], SHAPE["positions"])
    model = models.build_model(SHAPE | {"tied": True}, tokenizer)
    models.save_checkpoint(model, tokenizer, place / "target" / "checkpoint")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * (torch.rand_like(parameter) < 0.2)
    for name in ("whole", "run"):
        models.save_checkpoint(model, tokenizer, place / name / "checkpoint")
        weights = models.weights_digest(place / name / "checkpoint")
        storage.write_json(place / name / "outcome.json", {"status": "done", "weights": weights, "step": 3})
    delta.pack(place / "run" / "checkpoint", place / "target" / "checkpoint")
    return place


@pytest.mark.parametrize("load", [lambda folder: models.load_model(folder, "bf16"), lambda f: quantization.load_model(f, "cpu")])
def test_a_model_is_the_same_either_way(made, load):
    whole, packed = (load(made / name / "checkpoint") for name in ("whole", "run"))
    assert packed.dtype == whole.dtype and packed.get_input_embeddings().weight is packed.lm_head.weight
    assert packed.generation_config.to_dict() == whole.generation_config.to_dict()
    assert packed.config.to_dict() | {"_name_or_path": ""} == whole.config.to_dict() | {"_name_or_path": ""}
    other = dict(packed.named_parameters())
    assert all(same(parameter.detach(), other[name].detach()) for name, parameter in whole.named_parameters())


@pytest.mark.parametrize("kind", ["full", "bnb_nf4", "rtn"])
def test_every_scheme_starts_from_the_same_weights(made, kind):
    plugin, ids = registry.load("quantizers", kind), torch.arange(12).reshape(1, 12)
    scheme = registry.defaults("quantizers", kind) | {"granularity": "tensor"}
    whole, packed = (plugin.load(made / name / "checkpoint", scheme, "cpu") for name in ("whole", "run"))
    assert same(packed(ids).logits, whole(ids).logits)
    assert plugin.describe(packed, scheme) == plugin.describe(whole, scheme)


def test_a_results_folder_may_move(made, tmp_path):
    shutil.copytree(made, tmp_path / "elsewhere")
    assert models.weights_digest(tmp_path / "elsewhere/run/checkpoint") == models.weights_digest(made / "whole/checkpoint")


def test_a_run_may_move_where_a_link_to_it_is_left(made, tmp_path):
    """To another disk, say: the way to the target leads up from the link."""
    shutil.copytree(made, tmp_path / "here")
    (tmp_path / "there/deep").mkdir(parents=True)
    (tmp_path / "here/run").rename(tmp_path / "there/deep/run")
    (tmp_path / "here/run").symlink_to(tmp_path / "there/deep/run")
    assert models.weights_digest(tmp_path / "here/run/checkpoint") == models.weights_digest(made / "whole/checkpoint")


def test_export_is_an_ordinary_folder(made, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("run", "whole"):
        assert export.main([str(made / name), str(tmp_path / name)]) == 0
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (made / "whole" / "checkpoint").iterdir()}
    AutoTokenizer.from_pretrained(tmp_path / "run")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run").config.tie_word_embeddings
    assert export.main([str(made / "run"), str(tmp_path / "run")]) == 2
    assert "OUT" in capsys.readouterr().err.splitlines()[-1]


def test_an_export_to_a_full_disk_is_one_line_and_leaves_nothing(made, tmp_path, capsys, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copy2", full)
    assert export.main([str(made / "whole"), str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].count("No space left") == 1 and "make space" in told[0]
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_what_is_no_model(made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "all")
    run = tmp_path / "all" / "run"
    storage.write_json(run / "outcome.json", {"status": "done", "weights": "0" * 16, "step": 3})
    assert export.main([str(run), str(tmp_path / "out")]) == 2
    storage.write_json(run / "outcome.json", {"weights": "0" * 16})
    assert export.main([str(run), str(tmp_path / "out")]) == 2
    shutil.copy(made / "run/outcome.json", run / "outcome.json")
    storage.write_json(run / "checkpoint" / "pair.json", {"alpha": 1.0})
    assert export.main([str(run), str(tmp_path / "out")]) == 2
    shutil.rmtree(run / "checkpoint")
    storage.write_json(run / "checkpoint" / "diverged.json", {"status": "diverged", "step": 7})
    storage.write_json(run / "outcome.json", {"status": "diverged", "weights": None, "step": 7})
    assert export.main([str(run), str(tmp_path / "out")]) == 2
    told = ("not those of its outcome", "without status", "two models", "diverged at step 7")
    for line, words in zip(capsys.readouterr().err.splitlines(), told, strict=True):
        assert words in line
    assert not (tmp_path / "out").exists()
    assert export.main(["--as-stored", str(run), str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diverged.json"]
