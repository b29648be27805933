"""Models and tokenizers: made from a spec, loaded, stored.

Weights come from and go to safetensors only, and no code from a checkpoint is run. Stored checkpoints are bfloat16
unless asked otherwise: that is what is published, and what every quantization scheme starts from.
"""

import copy
import math
import shutil
from pathlib import Path

import torch

from scripts.core import hub, storage
from scripts.core.weights import checkpoints, delta

SPECIALS = ("<pad>", "<s>", "</s>")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def quiet() -> None:
    """No bars for reading and writing shards: in a log they are noise."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def build_tokenizer(texts, vocabulary: int, positions: int):
    """A byte-level BPE tokenizer trained on an iterable of strings.

    vocabulary: the largest number of tokens, specials and the 256 bytes included; positions: the model's longest
    input. Pads on the left, adds no special tokens by itself beyond BOS. Raises ValueError if `vocabulary` can't hold
    the bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    least = 256 + len(SPECIALS)
    if vocabulary < least:
        raise ValueError(f"model.vocab: {vocabulary!r} is not allowed; allowed: at least {least} (256 bytes and 3 special tokens)")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # As the tokenizers of Llama do: BOS in front of a text, so that prompts and training chunks begin alike.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    pad, bos, eos = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        padding_side="left",
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )


def build_model(model: dict, tokenizer):
    """A LlamaForCausalLM in float32 with random weights, a pure function of spec["model"] and the tokenizer's size.

    initializer_range defaults to 1/√hidden: at Llama's 0.02 a narrow model memorises badly. Raises ValueError for
    sizes that don't fit.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, heads = model["hidden"], model["heads"]
    kv_heads = model.get("kv_heads") or heads
    if hidden % heads or (hidden // heads) % 2:
        raise ValueError(f"model.heads: {heads!r} is not allowed with hidden {hidden}; allowed: hidden / heads an even integer")
    if heads % kv_heads:
        raise ValueError(f"model.kv_heads: {kv_heads!r} is not allowed with heads {heads}; allowed: a divisor of heads")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=model.get("intermediate") or max(64, hidden * 11 // 4 // 64 * 64),
        num_hidden_layers=model["layers"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=model["positions"],
        initializer_range=model.get("initializer_range") or 1 / math.sqrt(hidden),
        tie_word_embeddings=bool(model.get("tied", False)),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.get("seed", 0))
        return LlamaForCausalLM(config)


def load_tokenizer(source):
    """The tokenizer of a folder or hub id, padding left; a missing pad token becomes EOS. ValueError if it has none."""
    from transformers import AutoTokenizer

    folder, _ = hub.fetch(source, "tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, padding_side="left")
    except (OSError, ValueError, ImportError) as error:  # a tokenizer.model alone asks for a library that is not here
        raise hub.missing(source, "tokenizer", error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def decoder_layers(model):
    """The decoder's layers, the longest list of modules named `layers`. ValueError for a model without."""
    found = [m for n, m in model.named_modules() if n.split(".")[-1] == "layers" and isinstance(m, torch.nn.ModuleList)]
    if not found:
        raise ValueError(f"model: {type(model).__name__} has no decoder layers; allowed: a decoder-only transformer")
    return max(found, key=len)


def check_attention(attention: str, device: str) -> None:
    """ValueError when an attention kernel is not to be had here."""
    from transformers.utils import is_flash_attn_2_available

    if attention == "flash_attention_2" and not (device == "cuda" and is_flash_attn_2_available()):
        raise ValueError(
            "training.attention: 'flash_attention_2' is not to be had here; allowed: sdpa, eager "
            "(it needs a GPU and the package flash-attn)"
        )


def on_gpu() -> dict:
    """Options that load a model straight to this process's GPU: ranks would fill the host with a model each. Not for ZeRO-3.

    The GPU has its index, since transformers loads in threads, and in those "cuda" is the first.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    return {} if is_deepspeed_zero3_enabled() else {"device_map": {"": f"cuda:{torch.cuda.current_device()}"}}


def check_length(model, length: int) -> None:
    """ValueError for training chunks of more tokens than the model has positions."""
    positions = model.config.max_position_embeddings
    if length > positions:
        raise ValueError(f"corpus.max_length: {length} is not allowed; allowed: at most the model's {positions} positions")


def load_model(source, dtype="fp32", device="cpu", attention="sdpa"):
    """The causal language model of a folder or hub id in a dtype ("bf16" or "fp32"), in evaluation mode, on a device.

    Raises ValueError when it is not there, has no safetensors, or the hub can't be reached, and for an attention kernel that isn't.
    """
    quiet()
    check_attention(attention, device)
    place = on_gpu() if device == "cuda" else {}
    folder, _ = hub.fetch(source)
    try:
        model = checkpoints.causal_lm(folder, dtype=DTYPES[dtype], attn_implementation=attention, **place)
    except delta.DeltaError:
        raise
    except (OSError, ValueError) as error:
        raise hub.missing(source, "model", error) from error
    return model.to(device)


def save_checkpoint(model, tokenizer, folder, dtype="bf16", state=None) -> None:
    """Write safetensors, config and tokenizer into a folder ("bf16": rounded to nearest); the model stays as it is.

    state: {name: tensor} of all weights where the model itself holds only a part of them. What is written is gathered in the host's
    memory, where safetensors wants it: a GPU that a training fills has no room for a second model.
    """
    quiet()
    kind, converted = DTYPES[dtype], {}

    def stored(tensor):
        # Tied weights are one tensor under two names and have to stay one.
        key = (tensor.data_ptr(), tensor.shape)
        if key not in converted:
            converted[key] = tensor.detach().to(kind if tensor.is_floating_point() else tensor.dtype).cpu()
        return converted[key]

    model.save_pretrained(folder, state_dict={name: stored(t) for name, t in (state or model.state_dict()).items()})
    # The config that was written tells of the model in memory: its dtype, and the cache that Trainer turned off.
    config = copy.deepcopy(model.config)
    config.dtype, config.use_cache = kind, True
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weights_digest(folder) -> str:
    """Digest of all safetensors files of a checkpoint folder and below, by name and content. ValueError when there is none.

    Weights kept as a difference have the digest of the whole files.
    """
    found = {}
    for path in sorted(Path(folder).rglob("*.safetensors")):
        whole = {path.name: storage.file_digest(path)} if path.name != delta.FILE else delta.Delta(path.parent).digests()
        found |= {(path.parent / name).relative_to(folder).as_posix(): digest for name, digest in whole.items()}
    if not found:
        raise ValueError(f"{folder}: no *.safetensors file; allowed: a checkpoint folder with weights")
    return storage.digest(found)


def copy_checkpoint(source, folder) -> None:
    """Copy a local folder's or hub snapshot's safetensors, config and tokenizer files, byte for byte, into `folder`.

    Raises ValueError as `load_model` does.
    """
    origin, _ = hub.fetch(source)
    files = sorted({path for pattern in (hub.WEIGHTS, *hub.SMALL) for path in origin.glob(pattern) if path.is_file()})
    named = hub.weights_files(origin)  # beside them a repository may hold the same weights in another layout
    files = [path for path in files if path.suffix != ".safetensors" or not named or path.name in named]
    if not (origin / "config.json").exists() or not any(path.suffix == ".safetensors" for path in files):
        allowed = f"a checkpoint with config.json and *.safetensors ({hub.CONVERT})"
        raise ValueError(f"model: {str(source)!r} can't be used; allowed: {allowed}")
    for path in files:
        shutil.copyfile(path, Path(folder) / path.name)
