"""vLLM behind the engine that metrics ask; runs in the environment `vllm`, or `vllm_cpu` where there is no GPU.

vLLM is given an ordinary model: the checkpoint itself, or for a quantized scheme (and for weights kept as a difference) the same
dequantized weights that the main path computes with, written to a temporary folder. So schemes differ by weights alone, not by
kernels, and both engines give the same scores up to rounding. Weights and arithmetic have the main path's precision: float32 on a
CPU, the stored type on a GPU. vLLM batches, keeps the keys and values of common beginnings, and drops finished texts by itself.

Drawn texts (temperature above 0) are reproducible, but others than the main path's: vLLM draws by its own rule.
"""

import math
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scripts.core.evaluation import generation
from scripts.core.evaluation.engine import Engine, before

# In this process and without torch.compile: what serves one model for a few minutes starts sooner so. vLLM has to be told by
# `enforce_eager`, too: its models are compiled whole or not at all, and torch refuses a whole that it may not compile.
SETTINGS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
SETTINGS |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
SETTINGS |= {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}  # one more than the model's positions, see `start`
# On a GPU, vLLM tries FlashInfer's kernel for top-k and top-p before it answers anything. That kernel is compiled on the spot,
# which ends the job where there is no nvcc, and nothing here asks for either.
SETTINGS |= {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
SETTINGS |= {"TRITON_F32_DEFAULT": "ieee"}  # attention of a float32 model is Triton's on a GPU, by default with 10 bits of mantissa


class Served(Engine):
    """An Engine whose model is a vllm.LLM. positions: the model's longest input in tokens; ends: ids that end a text."""

    def __init__(self, llm, tokenizer, positions: int, ends, quiet: bool = False):
        super().__init__(None, tokenizer, quiet=quiet)
        self.llm, self.ends, self._positions = llm, sorted(ends), positions

    @property
    def positions(self) -> int:
        """The model's longest input in tokens."""
        return self._positions

    def generate(self, prompts: list[str], new_tokens: int, stop=(), temperature: float = 0.0, seed: int = 0) -> list[str]:
        """See Engine.generate. With a temperature each prompt has a seed of its own, made of `seed` and its index."""
        ids = self.encode(prompts)
        generation.check_length(ids, new_tokens, self.positions)
        if not ids or not new_tokens:
            return ["" for _ in ids]
        # The ids that end a text are those of the main path, so vLLM's own idea of them is switched off.
        common = {"max_tokens": new_tokens, "temperature": temperature, "stop": list(stop) or None}
        common |= {"stop_token_ids": self.ends, "ignore_eos": True, "logprobs": 0}
        texts = []
        for i, result in enumerate(self._ask(ids, [common | self._draw(temperature, seed, i) for i in range(len(ids))])):
            (output,) = result.outputs
            tokens, told = list(output.token_ids), output.logprobs
            for step, token in enumerate(tokens):
                if not math.isfinite(told[step][token].logprob):
                    raise generation.NotFinite(f"logits of prompt {i} are not finite at new token {step}")
            end = next((k for k, token in enumerate(tokens) if token in self.ends), len(tokens))
            texts.append(before(self.decode([tokens[:end]])[0], stop))
        return texts

    def token_logprobs(self, ids: list[list[int]]) -> list:
        """See Engine.token_logprobs."""
        found = [np.zeros(0, dtype=np.float32) for _ in ids]
        scored = [i for i, text in enumerate(ids) if len(text) > 1]
        # A prompt's log-probabilities come with a text of one token at least, which is thrown away.
        options = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        for i, result in zip(scored, self._ask([ids[i] for i in scored], [options] * len(scored)), strict=True):
            pairs = zip(result.prompt_logprobs[1:], ids[i][1:], strict=True)  # of the first token nothing is known
            found[i] = np.array([told[token].logprob for told, token in pairs], dtype=np.float32)
            if not np.isfinite(found[i]).all():
                raise generation.NotFinite(f"log-probabilities of text {i} are not finite")
        return found

    def _ask(self, ids: list[list[int]], options: list[dict]) -> list:
        """vLLM's outputs, in order, for prompts that are token ids."""
        if not ids:
            return []
        from vllm import SamplingParams, TokensPrompt

        prompts = [TokensPrompt(prompt_token_ids=one) for one in ids]
        return self.llm.generate(prompts, [SamplingParams(**own) for own in options], use_tqdm=not self.quiet)

    @staticmethod
    def _draw(temperature: float, seed: int, index: int) -> dict:
        return {"seed": int(np.random.default_rng([seed, index]).integers(2**31))} if temperature > 0 else {}


def load(plugin, checkpoint: Path, scheme: dict, device: str, batch_tokens: int, artifact=None):
    """(Served, description) of a checkpoint under a scheme; description: see the quantizer's describe."""
    from scripts.core.weights import delta, quantization
    from scripts.core.weights.models import load_tokenizer

    extra = {} if artifact is None else {"artifact": artifact}
    model = plugin.load(checkpoint, scheme, "cpu", **extra)
    tokenizer, described = load_tokenizer(checkpoint), plugin.describe(model, scheme)
    ends, config = generation.stop_ids(model, tokenizer), model.config
    dtype = "float32" if device == "cpu" else quantization.stored_dtype(checkpoint)
    whole = scheme["kind"] == "full" and not delta.is_packed(checkpoint)
    with _folder(None if whole else model, checkpoint, dtype) as folder:
        del model  # before vLLM takes its memory
        llm = start(folder, checkpoint, config, dtype, device, batch_tokens)
    import vllm

    served = Served(llm, tokenizer, config.max_position_embeddings, ends)
    served.facts = {"engine": {"name": "vllm", "version": vllm.__version__, "dtype": dtype}}
    return served, described


@contextmanager
def _folder(model, checkpoint: Path, dtype: str):
    """A folder that vLLM can read: the checkpoint itself where `model` is None, else a temporary one with the model's weights."""
    if model is None:
        yield checkpoint
        return
    import torch

    from scripts.core.weights import checkpoints

    checkpoints.plain_generation(model)
    with tempfile.TemporaryDirectory() as folder:
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        del model  # or it stays in memory as long as the folder
        yield Path(folder)


def look_here(architectures) -> None:
    """Have vLLM look at these classes of models in this process.

    It would import each in a child, unless its cache knows the class; and there nothing hides what can't be imported beside this
    torch (see scripts/evaluate.py).
    """
    from vllm import ModelRegistry

    for name in architectures:
        if known := ModelRegistry.models.get(name):
            ModelRegistry.register_model(name, known.load_model_cls())


def start(folder: Path, tokenizer: Path, config, dtype: str, device: str, batch_tokens: int):
    """The vllm.LLM of a folder with whole weights. batch_tokens: tokens whose keys and values are kept at once, on a CPU."""
    positions = config.max_position_embeddings
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if device == "cpu":
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * 4 * config.num_hidden_layers * (config.num_key_value_heads or config.num_attention_heads) * head
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(math.ceil(max(batch_tokens, 2 * positions) * token / 2**30)))  # GiB
    from vllm import LLM

    look_here(config.architectures or ())
    return LLM(
        model=str(folder),
        tokenizer=str(tokenizer),
        dtype=dtype,
        seed=0,
        # A text as long as the model's positions is scored with one token after it, which is never run through the model.
        max_model_len=positions + 1,
        max_logprobs=1,
        enforce_eager=True,
        enable_prefix_caching=True,
        trust_remote_code=False,
        disable_log_stats=True,
    )
