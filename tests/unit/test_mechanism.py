"""The program that measures what an update does to the weights, and the tables of what it found."""

import copy
import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts import mechanism, mechanism_tables
from scripts.core.analysis import columns, tables
from scripts.core.analysis.columns import LABELS
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.quantizers import _formats, awq
from tests.unit import updated
from tests.workflow.conftest import MICRO


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs `target` and `run`, schemes, a corpus."""
    return updated.build(tmp_path_factory.mktemp("results"))


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


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A function that measures a run for schemes, with a computation that only notes for which; (content, those it computed)."""
    asked = []

    def compute(run, target, schemes, corpus):
        asked.append([scheme["name"] for scheme in schemes])
        return {"modules": {}, "schemes": {scheme["name"]: {"scheme": scheme, "modules": {}} for scheme in schemes}}

    monkeypatch.setattr(mechanism, "compute", compute)
    monkeypatch.setattr(mechanism, "import_libraries", lambda gradient: None)
    for name in ("run", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "outcome.json").write_text(json.dumps({"status": "done", "weights": name}))

    def measure(known, *schemes):
        del asked[:]
        return mechanism.measure(tmp_path / "run", tmp_path / "target", list(schemes), known), sum(asked, [])

    return measure


FULL, TENSOR = {"name": "f", "kind": "full"}, {"name": "t", "kind": "rtn", "bits": 4, "granularity": "tensor"}


@pytest.mark.parametrize("folder", ["run", "target"])
def test_what_was_measured_of_other_weights_is_measured_anew(measured, tmp_path, folder):
    first, asked = measured({}, FULL, TENSOR)
    assert asked == ["f", "t"] and measured(first, FULL, TENSOR) == (first, [])
    (tmp_path / folder / "outcome.json").write_text(json.dumps({"status": "done", "weights": "others"}))
    assert measured(first, FULL, TENSOR)[1] == ["f", "t"]


def test_what_an_earlier_version_measured_is_measured_anew(measured, monkeypatch):
    first, _ = measured({}, FULL)
    monkeypatch.setattr(mechanism, "VERSION", mechanism.VERSION + 1)
    assert measured(first, FULL)[1] == ["f"]


def test_a_scheme_that_changed_is_measured_anew_and_one_that_is_gone_is_dropped(measured):
    first, _ = measured({}, FULL, TENSOR)
    changed, asked = measured(first, FULL, TENSOR | {"bits": 3})
    assert asked == ["t"] and changed["schemes"]["t"]["scheme"]["bits"] == 3 and list(changed["schemes"]) == ["f", "t"]
    fewer, asked = measured(changed, FULL)
    assert asked == [] and list(fewer["schemes"]) == ["f"]


def test_what_is_left_out_is_what_the_sweep_now_has_of_it(measured, monkeypatch):
    monkeypatch.delattr("scripts.quantizers.rtn.held")
    first, _ = measured({}, FULL, TENSOR)
    again, asked = measured(first, FULL)
    assert (first["left_out"], again["left_out"], asked) == (["t"], [], [])
    alone, _ = measured({}, TENSOR)
    assert alone["left_out"] == ["t"] and alone["modules"] == {} and alone["fingerprint"] == first["fingerprint"]


def test_a_gpu_is_taken_for_the_gradient_alone(results, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(mechanism.devices, "claim", taken.append)
    monkeypatch.setattr(mechanism, "measure", lambda *_: {})
    arguments = ["--run", str(results / "run"), "--target", str(results / "target"), "--schemes", str(results / "full.json")]
    assert mechanism.main([*arguments, "--out", str(tmp_path / "a.json")]) == 0 and taken == []
    assert mechanism.main([*arguments, "--out", str(tmp_path / "b.json"), "--corpus", str(results / "corpus")]) == 0 and taken == [
        1
    ]


def test_a_difference_reads_like_whole_weights(results, tmp_path):
    import shutil

    from scripts.core.weights import delta

    whole = call(results, ["tensor"], out=tmp_path / "whole.json")
    shutil.copytree(results, tmp_path / "packed")
    delta.pack(tmp_path / "packed/run/checkpoint", tmp_path / "packed/target/checkpoint")
    assert delta.is_packed(tmp_path / "packed/run/checkpoint")
    assert call(tmp_path / "packed", ["tensor"], out=tmp_path / "packed.json") == whole


def test_a_scheme_with_files_is_read_from_those_of_the_target_and_of_the_run(tmp_path):
    scheme, layer = {"name": "a4", "kind": "awq", "bits": 4, "group": 16, "clip": False}, "model.layers.0.mlp.up_proj"
    wanted = []
    for seed, name in enumerate(("target", "run")):
        weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
        codes, scale, zero = awq.rounded(weight, 4, 16)
        parts = _formats.to_pack_quantized(codes.long(), scale.half(), zero.long(), (8, 32), 4)
        parts |= {"input_scale": torch.full((32,), 2.0), "output_scale": torch.ones(8)}
        (tmp_path / name / "quantized/a4").mkdir(parents=True)
        save_file({f"{layer}.{part}": t for part, t in parts.items()}, tmp_path / name / "quantized/a4/model.safetensors")
        wanted.append(awq.stored(parts, scheme))
    found = mechanism.Quantizer(scheme, tmp_path / "run", tmp_path / "target").pair(layer, None, None)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]
    assert mechanism.says_what_it_holds(scheme) and not torch.equal(found[0][0], found[1][0])


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


def test_gradient_computes_the_layers_again_instead_of_keeping_them(results, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward, calls = LlamaMLP.forward, []
    monkeypatch.setattr(LlamaMLP, "forward", lambda layer, x: calls.append(len(x)) or forward(layer, x))
    mechanism.forget_gradient(results / "run", results / "corpus")
    assert len(calls) == 2 * 2  # layers of the model, batches of one


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
