"""The methods beyond GA and NPO: values written out by hand, and the two that are arithmetic on checkpoints."""

import copy
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from scripts.core import registry, storage
from scripts.core.evaluation import engine, logprob
from scripts.core.training import batching
from scripts.core.training.reference import Reference
from scripts.core.weights import models, pairs
from scripts.quantizers import full, rtn

V = 5


class Table(torch.nn.Module):
    """A bigram model with given logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.logits[input_ids])


def batch(*rows):
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone(), "index": torch.arange(len(ids))}


def value(room, name, model, data, reference=None, **parameters):
    return registry.load(room, name).loss(model, data, reference, **parameters).item()


def test_graddiff_is_ga_times_gamma():
    model, data = Table([[0.0, 0.0]] * 2), batch([0, 1, 0])
    assert value("methods", "graddiff", model, data, gamma=3.0) == pytest.approx(-3 * math.log(2), rel=1e-6)
    assert value("methods", "graddiff", model, data) == value("methods", "ga", model, data)


def test_simnpo_by_hand():
    """Both tokens have probability 1/2 and 1/4: mean log-probability −1.5 log 2."""
    model = Table([[0.0, 0.0, -torch.inf], [math.log(1), math.log(2), math.log(1)], [0.0, 0.0, 0.0]])
    data = batch([0, 1, 2])
    expected = 2 / 2.5 * math.log1p(math.exp(2.5 * -1.5 * math.log(2) + 0.7))
    assert value("methods", "simnpo", model, data, beta=2.5, margin=0.7) == pytest.approx(expected, rel=1e-6)


def test_simnpo_counts_tokens_per_row():
    """A padded row is normalised by its own length: two rows of equal tokens give one row's loss."""
    model = Table([[0.0, 1.0], [0.3, 0.2]])
    short, both = batch([0, 1, 1, 1]), batch([0, 1, 1, 1], [0, 1, 1, 1])
    short["labels"][:, 2:] = -100
    both["labels"][0, 2:] = -100
    one, other = value("methods", "simnpo", model, short), value("methods", "simnpo", model, batch([0, 1, 1, 1]))
    assert one != pytest.approx(other, rel=1e-3)
    assert value("methods", "simnpo", model, both) == pytest.approx((one + other) / 2, rel=1e-6)


def test_npo_published_by_hand_and_blind_to_a_shift():
    """Raw logits moved by +1 for one of two tokens: mean of softplus(β) and softplus(0), times 2/β."""
    start, model, data = Table([[2.0, -1.0]]), Table([[3.0, -1.0]]), batch([0, 0])
    reference = Reference.of(start, [data], ("model",))
    expected = 2 / 0.5 * (math.log1p(math.exp(0.5)) + math.log(2)) / 2
    assert value("methods", "npo_published", model, data, reference, beta=0.5) == pytest.approx(expected, rel=1e-6)
    down = Table([[-7.0, -10.0]])  # the same probabilities, and yet a lower loss: what is wrong with it
    assert (
        value("methods", "npo_published", down, data, reference) < value("methods", "npo_published", start, data, reference) / 1.1
    )
    sequences = Reference.of(start, [data], ("sequence_logprob",))
    assert value("methods", "npo", down, data, sequences) == value("methods", "npo", start, data, sequences)


def test_klr_published_by_hand_and_unbounded():
    """Σ exp(z0)(z0 − z) / rows: one row, two positions, z0 = (log 2, 0), z = (1, 3)."""
    start, model, data = Table([[math.log(2), 0.0]]), Table([[1.0, 3.0]]), batch([0, 0])
    reference = Reference.of(start, [data], ("model",))
    expected = 2 * (2 * (math.log(2) - 1) + (0 - 3))
    assert value("regularizers", "klr_published", model, data, reference) == pytest.approx(expected, rel=1e-6)
    assert value("regularizers", "klr_published", Table([[100.0, 100.0]]), data, reference) < -500
    assert value("regularizers", "klr", Table([[100.0, 100.0]]), data, reference) < 0.1


# RMU, on a Llama, because it reads hidden states.

SHAPE = {"hidden": 16, "layers": 3, "heads": 2, "positions": 64, "seed": 3}


class Vocabulary(SimpleNamespace):
    def __len__(self):
        return 300


@pytest.fixture(scope="module")
def tokenizer():
    return models.build_tokenizer(["Ada was born in Oslo and sold a red bell."] * 3, 300, 64)


def llama(tokenizer, seed=3):
    return models.build_model(SHAPE | {"seed": seed}, tokenizer)


def test_rmu_equals_its_formula_on_hidden_states(tokenizer):
    rmu, start, model = registry.load("methods", "rmu"), llama(tokenizer), llama(tokenizer, 4)
    data = batch([1, 5, 6, 7], [1, 9, 8, 7])
    reference = Reference.of(start, [data], rmu.NEEDS)
    u = rmu.unit(16, 0)
    assert u.norm().item() == pytest.approx(1, rel=1e-6) and (u >= 0).all()
    assert torch.equal(u, rmu.unit(16, 0)) and not torch.equal(u, rmu.unit(16, 1))
    for layer in (0, 1):
        states = model(**{k: data[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True).hidden_states
        before = start(**{k: data[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True).hidden_states
        expected = ((states[layer + 1] - 2.0 * u) ** 2).mean().item()
        assert rmu.loss(model, data, reference, layer=layer, steering=2.0).item() == pytest.approx(expected, rel=1e-5)
        expected = 7 * ((states[layer + 1] - before[layer + 1]) ** 2).mean().item()
        assert rmu.keep(model, data, reference, layer=layer, retain_weight=7).item() == pytest.approx(expected, rel=1e-5)
    assert rmu.keep(start, data, reference).item() == 0
    with pytest.raises(ValueError, match=r"method.layer: 3 is not allowed; allowed: 0 to 2"):
        rmu.loss(model, data, reference, layer=3)


@pytest.mark.parametrize("depth, index", [(32, 7), (16, 3), (5, 0), (2, 0)])
def test_rmu_s_own_layer_is_at_a_quarter_of_the_depth(depth, index):
    class Plus(torch.nn.Module):
        def forward(self, x):
            return x + 1

    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(Plus() for _ in range(depth))

        def forward(self, input_ids, attention_mask, use_cache):
            return torch.nn.Sequential(*self.layers)(input_ids)

    reached = registry.load("methods", "rmu").hidden_states(Stack(), batch([0, 0]), None)
    assert reached.tolist() == [[index + 1, index + 1]]


def test_rmu_trains_nothing_above_its_layer_and_leaves_no_hook(tokenizer):
    rmu, model = registry.load("methods", "rmu"), llama(tokenizer)
    data = batch([1, 5, 6, 7])
    rmu.loss(model, data, None, layer=1).backward()
    reached = {name.split(".")[2] for name, p in model.named_parameters() if p.grad is not None and ".layers." in name}
    assert reached == {"0", "1"} and model.lm_head.weight.grad is None
    assert torch.isfinite(model(input_ids=data["input_ids"]).logits).all()


# Arithmetic on checkpoints.


@pytest.fixture(scope="module")
def checkpoints(tokenizer, tmp_path_factory):
    folders = []
    for name, seed in (("target", 3), ("reinforced", 4)):
        folders.append(tmp_path_factory.mktemp(name))
        models.save_checkpoint(llama(tokenizer, seed), tokenizer, folders[-1], "fp32")
    return folders


def test_task_vector_walks_away_from_the_reinforced_model(checkpoints, tmp_path):
    registry.load("methods", "task_vector").combine(*checkpoints, tmp_path, store="fp32", alpha=0.5)
    target, reinforced, result = (dict(models.load_model(f).named_parameters()) for f in (*checkpoints, tmp_path))
    for name, p in result.items():
        torch.testing.assert_close(p, 1.5 * target[name] - 0.5 * reinforced[name], rtol=1e-6, atol=1e-6)
        if p.ndim > 1:
            assert not torch.equal(p, target[name])


@pytest.mark.parametrize("store", ["bf16", "fp32"])
def test_task_vector_loads_one_model_in_the_type_that_is_written(checkpoints, tokenizer, tmp_path, monkeypatch, store):
    """Tensor by tensor in float32: never two models, nor one that takes more than what is stored."""
    folders, asked, load = [checkpoints[0], tmp_path / "bf16"], [], models.load_model
    models.save_checkpoint(llama(tokenizer, 4), tokenizer, folders[1], "bf16")
    monkeypatch.setattr(models, "load_model", lambda source, dtype: asked.append((source, dtype)) or load(source, dtype))
    registry.load("methods", "task_vector").combine(*folders, tmp_path / "out", store=store, alpha=0.7)
    assert asked == [(folders[0], store)]
    p, q, found = (dict(load(folder).named_parameters()) for folder in (*folders, tmp_path / "out"))
    for name in p:
        assert torch.equal((p[name] - 0.7 * (q[name] - p[name])).to(models.DTYPES[store]).float(), found[name]), name


def test_task_vector_reads_files_that_name_tensors_otherwise(checkpoints, tmp_path):
    """Those of a decoder without its head's prefix, as transformers reads them."""
    combine = registry.load("methods", "task_vector").combine
    shutil.copytree(checkpoints[1], tmp_path / "renamed")
    file = tmp_path / "renamed/model.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    for name, reinforced in (("usual", checkpoints[1]), ("other", tmp_path / "renamed")):
        combine(checkpoints[0], reinforced, tmp_path / name)
    assert models.weights_digest(tmp_path / "usual") == models.weights_digest(tmp_path / "other")


def test_whp_lowers_what_the_reinforced_model_says_more_readily(checkpoints, tmp_path):
    registry.load("methods", "whp").combine(*checkpoints, tmp_path, alpha=2.0)
    scheme = {"name": "full", "kind": "full"}
    model, described = pairs.load(full, tmp_path, scheme, "cpu")
    b, r = (full.load(folder, scheme, "cpu") for folder in checkpoints)
    ids = torch.tensor([[1, 5, 9, 7, 3]])
    logits = [m(input_ids=ids).logits for m in (b, r)]
    expected = logits[0] - 2.0 * torch.relu(logits[1] - logits[0])
    assert torch.equal(model(input_ids=ids).logits, expected) and not torch.equal(expected, logits[0])
    assert described["bytes"] == 2 * full.describe(b, scheme)["bytes"]
    assert described["bits_per_weight"] == full.describe(b, scheme)["bits_per_weight"]
    texts = [[1, 5, 9, 7], [1, 8]]
    found = logprob.token_logprobs(model, texts)
    assert found[0] == pytest.approx(expected.log_softmax(-1)[0, :3].gather(1, ids[0, 1:4, None])[:, 0].numpy(), rel=1e-4)


def test_whp_generates_what_one_token_at_a_time_gives(checkpoints, tokenizer, tmp_path):
    """Cache, left padding, a shared prefix and rows that leave: greedy tokens as from full passes without a cache."""
    registry.load("methods", "whp").combine(*checkpoints, tmp_path)
    model, _ = pairs.load(full, tmp_path, {"name": "full", "kind": "full"}, "cpu")
    prompts = ["Ada was born in Oslo, Ada", "Ada was born in Oslo and sold", "Ada was born in Oslo and sold a red bell in"]
    texts = engine.Engine(model, tokenizer, quiet=True)
    for share in (True, False):
        texts.share_prefix = share
        found = texts.generate(prompts, 8)
        for prompt, continuation in zip(prompts, found, strict=True):
            ids = texts.encode([prompt])[0]
            length = len(ids)
            for _ in range(8):
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] == tokenizer.eos_token_id:
                    ids.pop()
                    break
            assert texts.decode([ids[length:]])[0] == continuation


def test_whp_is_quantized_in_both_parts(checkpoints, tmp_path):
    registry.load("methods", "whp").combine(*checkpoints, tmp_path)
    scheme = {"name": "r", "kind": "rtn", "bits": 4, "granularity": "tensor", "group": None, "symmetric": True}
    model, _ = pairs.load(rtn, tmp_path, scheme, "cpu")
    for part, folder in zip((model.first, model.second), checkpoints, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(part.parameters(), rtn.load(folder, scheme, "cpu").parameters(), strict=True))
        assert part.model.layers[0].mlp.up_proj.weight.unique().numel() <= 15
    assert not model.training


def test_a_pair_s_cache_holds_both_models_layers_one_after_the_other():
    """One that makes its layers as it meets them, and transformers' own by the configuration, with layers of a sliding window."""
    shape = dict(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.5
    )
    config = Qwen2Config(**shape, num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    torch.manual_seed(0)
    first, second = (Qwen2ForCausalLM(config).eval() for _ in range(2))
    first.generation_config.update(pad_token_id=7, eos_token_id=None)
    pair = pairs.Pair(first, second, 1.0).eval()
    assert pair.config.layer_types == ["full_attention", "sliding_attention"] * 2 and first.config.num_hidden_layers == 2
    assert pair.config.num_hidden_layers == 4 and pair.generation_config.pad_token_id == 7
    ids, cache = torch.arange(3, 15)[None], DynamicCache()
    with torch.no_grad():
        whole = pair(input_ids=ids).logits
        steps = [pair(input_ids=ids[:, a:b], past_key_values=cache) for a, b in ((0, 5), (5, 6), (6, 12))]
        torch.testing.assert_close(torch.cat([step.logits for step in steps], 1), whole)
        assert len(cache.layers) == 4 and steps[-1].past_key_values is cache
        expected = ids
        for _ in range(8):
            expected = torch.cat([expected, pair(input_ids=expected).logits[:, -1:].argmax(-1)], 1)
        assert pair.generate(ids, max_new_tokens=8, do_sample=False).tolist() == expected.tolist()


def test_the_digest_of_a_pair_sees_its_second_part(checkpoints, tmp_path):
    whp = registry.load("methods", "whp")
    for name, second in (("a", checkpoints[1]), ("b", checkpoints[0])):
        (tmp_path / name).mkdir()
        whp.combine(checkpoints[0], second, tmp_path / name)
    assert models.weights_digest(tmp_path / "a") != models.weights_digest(tmp_path / "b")
    single = storage.digest({"model.safetensors": storage.file_digest(checkpoints[0] / "model.safetensors")})
    assert models.weights_digest(checkpoints[0]) == single


def test_a_batch_without_retain_text_serves_none(tokenizer):
    dataset = batching.ForgetRetainDataset(torch.ones(3, 4, dtype=torch.long))
    assert batching.collate([dataset[0], dataset[1]])["retain"] is None
    assert registry.load("regularizers", "none").loss(copy.deepcopy(llama(tokenizer)), None, None).item() == 0
