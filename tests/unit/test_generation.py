"""Batched generation and log-probabilities against one text at a time, on small random Llamas."""

import random

import numpy as np
import pytest
import torch

from scripts.core.evaluation import generation
from scripts.core.evaluation.engine import Engine
from scripts.core.evaluation.logprob import token_logprobs

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa Question: Answer: \n\n".split(" ")


@pytest.fixture(scope="module")
def parts():
    """(model, tokenizer): 3 layers, grouped queries, sharp random weights so that texts differ."""
    from scripts.core.weights.models import build_model, build_tokenizer

    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(50)]
    tokenizer = build_tokenizer(texts, 300, 256)
    shape = {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "positions": 256, "initializer_range": 0.3}
    return build_model(shape, tokenizer).eval(), tokenizer


def prompts(tokenizer, shared: int, count: int = 11) -> list[list[int]]:
    """Prompts of very different lengths, the first `shared` tokens in common."""
    draw = random.Random(shared)
    beginning = [tokenizer.bos_token_id] + [draw.randrange(3, 300) for _ in range(shared)]
    return [beginning + [draw.randrange(3, 300) for _ in range(draw.randrange(1, 40))] for _ in range(count)]


def one_at_a_time(model, ids, new_tokens, **options):
    """transformers' own generation of one prompt, without what ended it."""
    out = model.generate(torch.tensor([ids]), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, **options)
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_greedy_equals_generate_for_each_prompt(parts, shared, batch_tokens):
    model, tokenizer = parts
    asked = prompts(tokenizer, shared)
    found = generation.generate(model, asked, 24, batch_tokens=batch_tokens)
    wanted = [one_at_a_time(model, ids, 24, eos_token_id=None) for ids in asked]
    assert found == wanted and len({tuple(one) for one in found}) > 1
    assert generation.generate(model, asked, 24, batch_tokens=batch_tokens, share_prefix=False) == wanted


@pytest.mark.parametrize("shared", [0, 30])
def test_attention_that_is_nan_where_a_row_sees_nothing_does_no_harm(parts, monkeypatch, shared):
    """As cuDNN's is on new GPUs: padding on the left, and from the next layer on all that has it for a key."""
    model, tokenizer = parts
    asked, attention = prompts(tokenizer, shared), torch.nn.functional.scaled_dot_product_attention
    wanted = generation.generate(model, asked, 8, batch_tokens=1)

    def cudnn(query, key, value, attn_mask=None, **options):
        found = attention(query, key, value, attn_mask=attn_mask, **options)
        return found if attn_mask is None else found.masked_fill(~attn_mask.any(-1, keepdim=True), torch.nan)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", cudnn)
    assert generation.generate(model, asked, 8, batch_tokens=100_000) == wanted
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # where transformers makes the mask itself


@pytest.fixture
def small(parts, monkeypatch):
    """A function (rows, after): from that many passes on a pass of more rows finds no room. Returns the rows of all passes."""
    model, forward = parts[0], parts[0].forward

    def limit(rows, after=0):
        passes = []

        def limited(**inputs):
            passes.append(len(inputs["input_ids"]))
            if passes[-1] > rows and len(passes) > after:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")
            return forward(**inputs)

        monkeypatch.setattr(model, "forward", limited)
        return passes

    return limit


@pytest.mark.parametrize("after", [0, 5])
def test_a_gpu_without_room_for_a_batch_goes_on_with_smaller_ones(parts, small, capsys, after):
    model, tokenizer = parts
    asked, done = prompts(tokenizer, 30), []
    wanted = generation.generate(model, asked, 24)
    passes = small(3, after)
    assert generation.generate(model, asked, 24, progress=done.append) == wanted
    assert max(passes[after + 3 :]) <= 3 and max(passes) == 11 and sum(done) == 11
    said = "11 texts at a time: CUDA out of memory. Tried to allocate 9 GiB.; going on with 5\n"
    assert said in capsys.readouterr().err
    small(0)
    with pytest.raises(torch.OutOfMemoryError):
        generation.generate(model, asked, 24, share_prefix=False)


def test_log_probabilities_are_the_same_where_batches_find_no_room(parts, small):
    model, tokenizer = parts
    texts = [*prompts(tokenizer, 4), [5]]
    wanted = token_logprobs(model, texts)
    passes = small(2)
    for one, other in zip(token_logprobs(model, texts), wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert max(passes) > 2


def test_rows_that_end_leave_the_others_alone(parts):
    model, tokenizer = parts
    asked = prompts(tokenizer, 20)
    full = generation.generate(model, asked, 24)
    # ids that occur early in some continuations and not in others
    ends = {full[0][0], full[1][3], full[2][8]}
    cut = [one[: next((i for i, token in enumerate(one) if token in ends), 24)] for one in full]
    assert len({len(one) for one in cut}) > 2
    assert generation.generate(model, asked, 24, ends=ends) == cut
    sizes = []
    forward = model.forward

    def watched(**inputs):
        sizes.append(inputs["input_ids"].shape[0])
        return forward(**inputs)

    model.forward = watched
    try:
        generation.generate(model, asked, 24, ends=ends)
    finally:
        del model.forward
    assert sizes[1] == len(asked) and sizes[-1] < len(asked)


def test_eos_of_the_model_ends_a_text(parts):
    model, tokenizer = parts
    assert generation.stop_ids(model, tokenizer) == {tokenizer.eos_token_id}
    asked = prompts(tokenizer, 0)
    token = generation.generate(model, asked, 24)[3][5]
    model.generation_config.eos_token_id = [token, 1]
    try:
        assert generation.stop_ids(model, tokenizer) == {token, 1}
        found = generation.generate(model, asked, 24, ends={token, 1})
        wanted = [one_at_a_time(model, ids, 24) for ids in asked]
        assert found == [one[:-1] if one[-1] in (token, 1) else one for one in wanted]
    finally:
        model.generation_config.eos_token_id = tokenizer.eos_token_id


@pytest.mark.parametrize("shared", [0, 30])
def test_samples_depend_on_seed_and_example_only(parts, shared):
    model, tokenizer = parts
    asked = prompts(tokenizer, shared)
    options = {"temperature": 1.5, "seed": 4}
    found = generation.generate(model, asked, 16, **options)
    assert found == generation.generate(model, asked, 16, batch_tokens=1, share_prefix=False, **options)
    assert found == generation.generate(model, asked, 16, batch_tokens=120, **options)
    assert found != generation.generate(model, asked, 16, temperature=1.5, seed=5)
    assert found != generation.generate(model, asked, 16)
    same = generation.generate(model, [asked[0]] * 3, 16, **options)
    assert len({tuple(one) for one in same}) == 3  # a stream of its own for each example


def test_samples_against_a_plain_loop(parts):
    model, tokenizer = parts
    ids = prompts(tokenizer, 0)[2]
    uniform, wanted = generation.draws(9, 0, 12), []
    for step in range(12):
        with torch.no_grad():
            logits = model(torch.tensor([ids + wanted])).logits[0, -1]
        cumulative = np.cumsum(torch.softmax(logits.double() / 0.9, 0).numpy())
        wanted.append(int(np.searchsorted(cumulative, uniform[step] * cumulative[-1], side="right")))
    assert generation.generate(model, [ids], 12, temperature=0.9, seed=9) == [wanted]


def test_samples_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(4000, -1)
    uniform = torch.from_numpy(np.random.default_rng(0).random(4000))
    counts = torch.bincount(generation._sample(logits, 2.0, uniform), minlength=4) / 4000
    assert torch.allclose(counts, torch.softmax(logits[0] / 2, 0), atol=0.03)


def test_stop_strings_end_rows_and_cut_texts(parts):
    model, tokenizer = parts
    engine = Engine(model, tokenizer, batch_tokens=400, quiet=True)
    texts = tokenizer.batch_decode(prompts(tokenizer, 0), skip_special_tokens=True)
    full = engine.generate(texts, 24)
    stop = (full[0][2:5], full[4][6:8], full[7][0])
    wanted = [min((one.split(word)[0] for word in stop), key=len) for one in full]
    assert engine.generate(texts, 24, stop=stop) == wanted and wanted != full


def test_long_prompts_name_what_is_allowed(parts):
    model, tokenizer = parts
    assert generation.generate(model, [[5] * 240], 16)
    with pytest.raises(
        ValueError, match="prompt 1: 241 tokens do not fit; allowed: at most 240, the model's 256 positions minus 16"
    ):
        generation.generate(model, [[5], [5] * 241], 16)
    with pytest.raises(ValueError, match="prompt 0: has no token"):
        generation.generate(model, [[]], 16)


@pytest.mark.parametrize("batch_tokens", [1, 120, 100_000])
def test_log_probabilities_equal_the_plain_softmax(parts, batch_tokens):
    model, tokenizer = parts
    texts = prompts(tokenizer, 3) + [[1], []]
    found = token_logprobs(model, texts, batch_tokens)
    for ids, values in zip(texts[:-2], found, strict=False):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        wanted = torch.log_softmax(logits.double(), -1)[range(len(ids) - 1), ids[1:]]
        assert values.dtype == np.float32 and np.allclose(values, wanted, atol=2e-5)
    assert [len(values) for values in found[-2:]] == [0, 0]


def test_log_probabilities_in_small_chunks(parts, monkeypatch):
    from scripts.core.evaluation import logprob

    model, tokenizer = parts
    texts = prompts(tokenizer, 3)
    whole = token_logprobs(model, texts)
    monkeypatch.setattr(logprob, "CHUNK", 5 * 300)
    for one, other in zip(whole, token_logprobs(model, texts), strict=True):
        assert np.array_equal(one, other)


def test_log_probabilities_of_bf16_logits_are_summed_in_float32():
    """In bf16 a log-sum-exp near 6 moves in steps of 1/32."""
    from scripts.core.evaluation import logprob

    logits = (3 * torch.randn(1, 40, 300, generator=torch.Generator().manual_seed(0))).bfloat16()
    ids = torch.arange(40)[None] * 7
    wanted = torch.log_softmax(logits.double(), -1)[0, range(39), ids[0, 1:]]
    assert torch.allclose(logprob._gather(logits, ids)[0, :-1].double(), wanted, atol=1e-5)


@pytest.mark.parametrize("limit, count", [("CPU_TOKENS", 120), ("LOGITS_BYTES", 120 * 300 * 4)])
def test_log_probabilities_keep_a_batch_s_budget(parts, monkeypatch, limit, count):
    from scripts.core.evaluation import logprob

    monkeypatch.setattr(logprob, limit, count)
    model, tokenizer = parts
    sizes, texts = [], prompts(tokenizer, 3)
    hook = model.register_forward_pre_hook(lambda module, _, given: sizes.append(given["input_ids"].shape), with_kwargs=True)
    try:
        token_logprobs(model, texts)
    finally:
        hook.remove()
    assert sum(rows for rows, _ in sizes) == len(texts) and max(rows for rows, _ in sizes) > 1
    assert all(rows == 1 or rows * width <= 120 for rows, width in sizes)


def test_texts_are_cut_to_max_tokens_and_positions(parts):
    model, tokenizer = parts
    engine = Engine(model, tokenizer, quiet=True)
    long = "alpha beta " * 300
    assert [len(one) for one in engine.logprobs([long, long], 20)] == [19, 19]
    assert len(engine.logprobs([long])[0]) == 255
    assert engine.cut(["alpha beta gamma"], 1)[0] == tokenizer.decode(tokenizer("alpha beta gamma")["input_ids"][1:2])


def test_a_broken_model_has_no_score(parts):
    model, tokenizer = parts
    weight = model.lm_head.weight.data
    kept = weight[7].clone()
    weight[7] = float("nan")
    try:
        with pytest.raises(generation.NotFinite, match="not finite"):
            generation.generate(model, prompts(tokenizer, 0), 4)
        with pytest.raises(generation.NotFinite, match="not finite"):
            generation.generate(model, prompts(tokenizer, 0), 4, temperature=1.0)
        with pytest.raises(generation.NotFinite, match="log-probabilities of text 0"):
            token_logprobs(model, prompts(tokenizer, 0)[:1])
    finally:
        weight[7] = kept


def test_sliding_windows_go_without_shared_buffers(parts):
    """A model whose layers see a window only: the library's own cache, and still one-at-a-time results."""
    from transformers import MistralConfig, MistralForCausalLM

    shape = dict(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    config = MistralConfig(**shape, num_key_value_heads=2, sliding_window=16, initializer_range=0.3, max_position_embeddings=128)
    model = MistralForCausalLM(config).eval()
    asked = [list(range(3, 3 + n)) for n in (30, 12, 21)]
    wanted = [one_at_a_time(model, ids, 8, eos_token_id=None) for ids in asked]
    assert generation.generate(model, asked, 8) == wanted
