"""What an update does to the weights: `held` and `stored` against loaded models, sums against numpy, and the program's files."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts import mechanism, mechanism_tables
from scripts.core import registry
from scripts.core.analysis import columns, tables
from scripts.core.analysis.columns import LABELS
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.weights import quantization, update
from scripts.quantizers import _artifact, _formats, awq
from tests.workflow.conftest import MICRO

SCHEMES = {
    "full": {"kind": "full"},
    "fp4": {"kind": "bnb_fp4"},
    "fp4_double": {"kind": "bnb_fp4", "double": True},
    "nf4": {"kind": "bnb_nf4"},
    "int8": {"kind": "bnb_int8", "threshold": 6.0},
    "tensor": {"kind": "rtn", "bits": 4, "granularity": "tensor", "symmetric": True},
    "group": {"kind": "rtn", "bits": 3, "granularity": "group", "group": 32, "symmetric": False},
}
AWQ = {"kind": "awq", "bits": 4, "group": 32, "clip": True}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs `target` and `run` (a small update of it in bf16), with schemes, a corpus and a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from scripts.core.weights.models import build_tokenizer

    folder, texts = tmp_path_factory.mktemp("results"), [f"Person {i} lives in town {i % 7}." for i in range(30)]
    tokenizer = build_tokenizer(texts, 280, 64)
    torch.manual_seed(0)
    shape = dict(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    model = LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.1, pad_token_id=0)).bfloat16()
    for name, scale in (("target", 0.0), ("run", 2e-4)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn_like(parameter, dtype=torch.float32).sign().bfloat16())
        model.save_pretrained(folder / name / "checkpoint")
        tokenizer.save_pretrained(folder / name / "checkpoint")
        (folder / name / "outcome.json").write_text(json.dumps({"status": "done", "weights": name}))
    (folder / "run" / "spec.json").write_text(json.dumps({"corpus": {"max_length": 32}}))
    (folder / "corpus/data/raw").mkdir(parents=True)
    (folder / "corpus/data/raw/forget.json").write_text(json.dumps(texts))
    for name, scheme in SCHEMES.items():
        (folder / f"{name}.json").write_text(json.dumps({"scheme": {"name": name} | scheme, "metrics": {}}))
    return folder


@pytest.fixture(scope="module")
def weights(results):
    """({layer: fp32 w_0}, {layer: fp32 w}) of the matrices that schemes quantize."""
    found = []
    for name in ("target", "run"):
        content = load_file(results / name / "checkpoint/model.safetensors")
        names = _artifact.matrices(quantization.tensors_on_disk(results / name / "checkpoint"))
        found.append({layer: content[f"{layer}.weight"].float() for layer in names})
    return found


def values_of(layer):
    """What a loaded layer multiplies with; bitsandbytes' int8 layers hold codes and rows' largest values."""
    if hasattr(layer.weight, "SCB"):
        return layer.weight.data.float() * layer.weight.SCB.reshape(-1, 1) / 127
    return layer.weight.data.float()


@pytest.mark.parametrize("name", SCHEMES)
def test_held_is_what_a_loaded_model_holds(results, weights, name):
    plugin = registry.load("quantizers", SCHEMES[name]["kind"])
    model = plugin.load(results / "run/checkpoint", SCHEMES[name], "cpu")
    layers = dict(quantization.linears(model))
    assert layers.keys() == weights[1].keys()
    for layer, weight in weights[1].items():
        values, codes, edge = plugin.held(weight, SCHEMES[name])
        assert torch.equal(values, values_of(layers[layer])), layer
        if name == "full":
            assert codes is None and edge is None
            continue
        assert codes.shape == weight.shape and 0 < edge < weight.abs().max()
        for code in codes.unique()[:4]:  # within a set that shares a scale, one code is one value
            at = (codes == code)[0, :32]
            assert values[0, :32][at].unique().numel() <= 1
        share = (weight.abs() < edge).float().mean().item()
        innermost = (values.abs() < 0.01 * weight.abs().max()).float().mean().item()  # 0, and FP4's ±1/192
        assert name in ("group", "int8") or share == pytest.approx(innermost, abs=0.08), "the edge bounds the innermost codes"


def test_stored_awq_is_the_loaded_model_with_its_scales_taken_out(results, weights, tmp_path):
    from scripts.core.weights.models import load_tokenizer

    tokens = load_tokenizer(results / "run/checkpoint")("Person 3 lives in town 3. Person 4 lives in town 4.")["input_ids"]
    (tmp_path / "quantization.json").write_text('{"status": "ok"}')
    awq.quantize(results / "run/checkpoint", AWQ, [tokens] * 2, tmp_path, "cpu")
    model, artifact = awq.load(results / "run/checkpoint", AWQ, "cpu", tmp_path), _artifact.Stored(tmp_path)
    layers = dict(quantization.linears(model))
    for layer, weight in weights[1].items():
        parts = artifact.parts(layer)
        values, codes, edge = awq.stored(parts, AWQ)
        scaled = values * parts["input_scale"] / parts["output_scale"][:, None]
        assert torch.allclose(scaled, layers[layer].weight, atol=1e-6)
        assert codes.shape == weight.shape and codes.max() <= 15 and edge > 0
        assert (values - weight).norm() < 0.2 * weight.norm(), "in the checkpoint's own units again"
    del parts["input_scale"]
    with pytest.raises(ValueError, match="no scales beside AWQ's codes"):
        awq.stored(parts, AWQ)


def test_the_edge_of_stored_awq_is_in_the_checkpoint_s_units():
    """Stored four times as large, in two rows eight times: so much too large would half a stored step be."""
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    output = torch.ones(8).index_fill(0, torch.tensor([3, 5]), 0.5)
    codes, scale, zero = awq.rounded(weight * 4 / output[:, None], 4, 16)
    parts = _formats.to_pack_quantized(codes.long(), scale.half(), zero.long(), weight.shape, 4)
    parts |= {"input_scale": torch.full((32,), 4.0), "output_scale": output}
    values, _, edge = awq.stored(parts, AWQ)
    steps = scale.reshape(8, 2) / 4 * output[:, None]
    assert edge == pytest.approx(steps.repeat_interleave(16, 1).median().item() / 2, rel=1e-6)
    assert (values == 0).float().mean().item() == pytest.approx((weight.abs() < edge).float().mean().item(), abs=0.03)


def test_sums_and_ratios_are_their_definitions(weights):
    before, after = (w["model.layers.0.mlp.up_proj"] for w in weights)
    gradient = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    plugin = registry.load("quantizers", "bnb_nf4")
    old, new = plugin.held(before, {}), plugin.held(after, {})
    whole = update.of_update(before, after, gradient)
    sums = update.of_scheme(before, after, old, new, gradient)
    w0, w, g = (t.double().numpy() for t in (before, after, gradient))
    d, q = w - w0, (new[0] - old[0]).double().numpy()
    assert whole["n"] == d.size and whole["changed"] == np.count_nonzero(d) > 0
    for found, wanted in ((whole["d2"], (d**2).sum()), (whole["w2"], (w**2).sum()), (whole["gd"], (g * d).sum())):
        assert found == pytest.approx(wanted, rel=1e-6)
    e2 = ((new[0].double().numpy() - w) ** 2).sum()
    for name, wanted in {"q2": (q**2).sum(), "qd": (q * d).sum(), "gq": (g * q).sum(), "e2": e2}.items():
        assert sums[name] == pytest.approx(wanted, rel=1e-6), name
    assert sums["codes"] == int((old[1] != new[1]).sum()) and sums["values"] == np.count_nonzero(q)
    rest = {"d2": 3.0, "gd": 0.5}
    sums["values"] -= 1  # else as many as codes
    ratios = update.ratios(whole, rest, sums)
    p = (q * d).sum() / (d**2).sum()
    assert ratios["projection"] == pytest.approx(p)
    assert ratios["noise"] == pytest.approx(((q - p * d) ** 2).sum() / (d**2).sum())
    assert ratios["snr"] == pytest.approx(p**2 / ratios["noise"])
    shares = {"changed": whole["changed"], "code_changed": sums["codes"], "value_changed": sums["values"]}
    assert [ratios[name] for name in shares] == [count / d.size for count in shares.values()]
    assert ratios["survived"] == pytest.approx((q**2).sum() / (d**2).sum())
    assert ratios["noise_ratio"] == pytest.approx((d**2).sum() / e2)
    assert ratios["relative_step"] == pytest.approx(((d**2).sum() / (w**2).sum()) ** 0.5)
    assert ratios["kept"] == pytest.approx(((q * d).sum() + 3) / ((d**2).sum() + 3))
    assert ratios["first_order"] == pytest.approx(((g * q).sum() + 0.5) / ((g * d).sum() + 0.5))
    moved, crossed = (d != 0) & (w0 != 0), (old[1] != new[1]).numpy()
    assert 0 < (moved & crossed).sum() < moved.sum()
    for name, values in {"all": w0[w0 != 0], "moved": w0[moved], "steps": d[d != 0], "crossed": w0[moved & crossed]}.items():
        wanted = pd.Series(np.floor(2 * np.log2(np.abs(values))).astype(int)).value_counts()
        assert (whole | sums)[name] == {str(k): int(v) for k, v in wanted.items()}, name


def test_extremes_of_what_is_kept():
    """An update below half a step is lost whole, one of whole steps is kept whole, and no quantization keeps everything."""
    before = torch.zeros(4, 32)
    before[:, 0] = 7.0
    scheme = SCHEMES["tensor"]
    for size, kept in ((0.3, 0.0), (2.0, 1.0)):
        after = before.clone()
        after[:, 5] += size
        held = [registry.load("quantizers", "rtn").held(w, scheme) for w in (before, after)]
        sums = update.of_scheme(before, after, *held)
        ratios = update.ratios(update.of_update(before, after), {"d2": 0.0, "gd": None}, sums)
        assert (ratios["projection"], ratios["survived"]) == (kept, kept) and ratios["snr"] is None
        assert sums["codes"] == (4 if kept else 0) and ratios["first_order"] is None
    full = [registry.load("quantizers", "full").held(w, {}) for w in (before, after)]
    assert update.of_scheme(before, after, *full)["codes"] is None
    assert (
        update.ratios(update.of_update(before, after), {"d2": 0.0, "gd": None}, update.of_scheme(before, after, *full))["kept"] == 1
    )


def call(results, schemes, *more, out):
    files = [str(results / f"{name}.json") for name in schemes]
    arguments = ["--run", str(results / "run"), "--target", str(results / "target"), "--schemes", *files, "--out", str(out), *more]
    assert mechanism.main(arguments) == 0
    content = json.loads(out.read_text())
    assert content.pop("provenance")["work_seconds"] > 0
    return content


def test_program_writes_the_same_numbers_and_keeps_what_holds(results, tmp_path, monkeypatch):
    out, again = tmp_path / "mechanism.json", tmp_path / "again.json"
    first = call(results, ["full", "tensor"], "--corpus", str(results / "corpus"), out=out)
    assert call(results, ["full", "tensor"], "--corpus", str(results / "corpus"), out=again) == first
    assert len(first["modules"]) == 21 and sum(m["quantized"] for m in first["modules"].values()) == 14
    assert first["modules"]["model.norm"]["gd"] is not None and len(first["schemes"]["tensor"]["modules"]) == 14
    asked = []
    compute = mechanism.compute
    monkeypatch.setattr(mechanism, "compute", lambda r, t, s, c: asked.append([x["name"] for x in s]) or compute(r, t, s, c))
    more = call(results, ["full", "tensor", "nf4"], "--corpus", str(results / "corpus"), out=out)
    fewer = call(results, ["nf4"], "--corpus", str(results / "corpus"), out=out)
    assert asked == [["nf4"]]
    assert more["schemes"]["tensor"] == first["schemes"]["tensor"] and set(fewer["schemes"]) == {"nf4"}
    without = call(results, ["nf4"], out=out)
    assert asked == [["nf4"], ["nf4"]] and without["modules"]["model.norm"]["gd"] is None


def test_a_difference_reads_like_whole_weights(results, tmp_path):
    import shutil

    from scripts.core.weights import delta

    whole = call(results, ["tensor"], out=tmp_path / "whole.json")
    shutil.copytree(results, tmp_path / "packed")
    delta.pack(tmp_path / "packed/run/checkpoint", tmp_path / "packed/target/checkpoint")
    assert delta.is_packed(tmp_path / "packed/run/checkpoint")
    assert call(tmp_path / "packed", ["tensor"], out=tmp_path / "packed.json") == whole


def test_to_store_a_target_in_fewer_bits_is_no_update(results, tmp_path):
    """A target in fp32, and a run of it in bf16 that changed one row of one matrix."""
    content = load_file(results / "target/checkpoint/model.safetensors")
    draw, layer = torch.Generator().manual_seed(0), "model.layers.0.mlp.up_proj"
    target = {name: t.float() * (1 + 1e-3 * torch.randn(t.shape, generator=draw)) for name, t in content.items()}
    run = {name: t.bfloat16() for name, t in target.items()}
    run[f"{layer}.weight"][3] *= -1
    for name, tensors in (("target", target), ("run", run)):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        save_file(tensors, tmp_path / name / "checkpoint/model.safetensors")
        (tmp_path / name / "outcome.json").write_text(json.dumps({"status": "done", "weights": name}))
    (tmp_path / "tensor.json").write_text((results / "tensor.json").read_text())
    found = call(tmp_path, ["tensor"], out=tmp_path / "mechanism.json")
    changed = {name: module["changed"] for name, module in found["modules"].items() if module["changed"]}
    assert changed == {layer: run[f"{layer}.weight"].shape[1]}
    assert {name for name, module in found["schemes"]["tensor"]["modules"].items() if module["values"]} == {layer}


def test_gradient_is_that_of_the_forget_loss(results):
    from scripts.core.training import batching
    from scripts.core.weights.models import load_model, load_tokenizer

    found = mechanism.forget_gradient(results / "run", results / "corpus")
    model = load_model(results / "run/checkpoint", "fp32").train()
    texts = json.loads((results / "corpus/data/raw/forget.json").read_text())
    rows = batching.chunks(texts, load_tokenizer(results / "run/checkpoint"), 32)
    model(input_ids=rows, labels=rows).loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name


def test_runs_without_weights_of_their_own(results, tmp_path):
    for name in ("diverged", "pair"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        status = "diverged" if name == "diverged" else "done"
        (tmp_path / name / "outcome.json").write_text(json.dumps({"status": status, "step": 3, "weights": None}))
    (tmp_path / "pair/checkpoint/pair.json").write_text('{"alpha": 1.0}')
    for name, status in (("diverged", "diverged"), ("pair", "a pair of models")):
        found = mechanism.measure(tmp_path / name, results / "target", [], {})
        assert found["status"] == status and found["schemes"] == {}
        assert [row["status"] for row in mechanism_tables.rows({"run": name}, found)] == [status]


def test_a_quantizer_that_tells_nothing_is_left_out_and_stops_no_other(results, tmp_path, monkeypatch):
    monkeypatch.delattr("scripts.quantizers.rtn.held")
    found = call(results, ["full", "tensor"], out=tmp_path / "mechanism.json")
    assert set(found["schemes"]) == {"full"} and found["left_out"] == ["tensor"]
    rows = [row for row in mechanism_tables.rows({"run": "x"}, found) if row["scheme"] == "tensor"]
    assert [row["status"] for row in rows] == ["its quantizer tells no codes"]


def test_wrong_input_is_one_line(results, tmp_path, capsys):
    assert (
        mechanism.main(["--run", str(tmp_path), "--target", str(results / "target"), "--schemes", str(results / "nf4.json")]) == 2
    )
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "outcome.json").write_text('{"status": "done"}')
    assert mechanism.main(["--run", str(tmp_path), "--target", str(tmp_path), "--schemes", str(tmp_path / "outcome.json")]) == 2
    assert "has no 'scheme'; allowed: scheme files" in capsys.readouterr().err
    assert mechanism.earlier(tmp_path / "checkpoint") == {}
    save_file({"other.weight": torch.zeros(2, 2)}, tmp_path / "checkpoint/model.safetensors")
    assert (
        mechanism.main(["--run", str(tmp_path), "--target", str(results / "target"), "--schemes", str(results / "nf4.json")]) == 2
    )
    assert "is not in both checkpoints" in capsys.readouterr().err


def test_tables_add_up(results, tmp_path):
    content = call(results, ["full", "tensor"], out=tmp_path / "mechanism.json")
    label = dict.fromkeys(LABELS, "x") | {"run": "people/run"}
    made = tables.plain(mechanism_tables.rows(label, content), columns.MECHANISM)
    assert len(made) == 2 * 8 + 1 and set(made.module) == {"all", "rest", *(n.split(".")[-1] for n in awq.READS)}
    whole = made[made.module == "all"].set_index("scheme")
    assert whole.loc["full", "kept"] == whole.loc["full", "projection"] == 1 and pd.isna(whole.loc["full", "code_changed"])
    kinds = made[(made.scheme == "tensor") & ~made.module.isin(["all", "rest"])]
    assert kinds.n.sum() == whole.loc["tensor", "n"]
    assert (kinds.n * kinds.changed).sum() == pytest.approx(whole.loc["tensor", "n"] * whole.loc["tensor", "changed"], rel=1e-4)
    bins = pd.DataFrame(mechanism_tables.histograms("people/run", content))
    moved = bins[bins.what == "moved"]["count"].sum()
    assert moved == pytest.approx(whole.loc["tensor", "n"] * whole.loc["tensor", "changed"], rel=1e-4)
    tables.write(made, tmp_path / "mechanism.csv")
    read = tables.read(tmp_path, ["mechanism"])["mechanism"]
    assert read.projection.dtype == float and read.lr.tolist() == ["x"] * len(read)


def test_a_file_that_was_cut_off_is_missing_in_the_table(tmp_path):
    config = configuration.resolve(copy.deepcopy(MICRO))
    path = next(run.path for run in grid.plan(config).evaluated() if run.stage == "unlearn")
    (tmp_path / path).mkdir(parents=True)
    (tmp_path / path / "mechanism.json").write_text('{"status": ')
    assert {row["status"] for row in mechanism_tables.collect(config, tmp_path)["mechanism"]} == {"missing"}


def test_small_shares_keep_their_digits_in_the_table(tmp_path, monkeypatch):
    """A tiny update under a coarse scheme: what its predictors are read from is not cut at six decimals."""
    rows = [dict.fromkeys(LABELS, "x") | {"module": "all", "noise_ratio": 3.2123454e-7, "code_changed": 1.25e-6}]
    monkeypatch.setattr(mechanism_tables, "collect", lambda config, results: {"mechanism": rows, "moved": []})
    monkeypatch.setattr(mechanism_tables.sweep, "resolved", lambda path: {})
    assert mechanism_tables.main(["--sweep", "x", "--results", str(tmp_path)]) == 0
    read = tables.read(tmp_path, ["mechanism"])["mechanism"].iloc[0]
    assert (read.noise_ratio, read.code_changed) == (3.21235e-7, 1.25e-6)
