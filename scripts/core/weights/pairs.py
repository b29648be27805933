"""A checkpoint that is made of two models, evaluated like any other: both parts are quantized by the same scheme.

Its folder holds one model, a second one below it in reinforced/, and pair.json with α. Logits are b − α · relu(r − b), see
scripts/methods/whp.py. Both parts live on one cache of keys and values: the first half of its layers belongs to the first.
"""

import copy
from pathlib import Path

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from scripts.core import storage

SECOND, DESCRIPTION = "reinforced", "pair.json"


class Pair(PreTrainedModel, GenerationMixin):
    """A language model of two, first and second, with the first's configuration but for the layers of both."""

    _supports_sdpa = _supports_flash_attn = True  # it has no attention of its own

    def __init__(self, first, second, alpha: float):
        config = copy.deepcopy(first.config)
        config.num_hidden_layers = first.config.num_hidden_layers + second.config.num_hidden_layers
        if getattr(config, "layer_types", None):
            config.layer_types = [*first.config.layer_types, *second.config.layer_types]
        super().__init__(config)
        self.first, self.second, self.alpha = first, second, alpha
        self.generation_config = first.generation_config

    def tie_weights(self, *_, **__) -> None:
        """Nothing to do: each model was tied when it was loaded."""

    def get_output_embeddings(self):
        """The first model's output head."""
        return self.first.get_output_embeddings()

    def forward(self, input_ids, past_key_values=None, **arguments):
        """Combined logits (B, T, V); arguments as for any causal language model."""
        cache, caches = past_key_values, (None, None)
        if cache is not None:
            half = self.first.config.num_hidden_layers
            # Views on the same layers, or new ones where the cache makes its layers as it meets them.
            caches = [Cache(layers=part) if part else DynamicCache() for part in (cache.layers[:half], cache.layers[half:])]
        base, reinforced = (
            model(input_ids=input_ids, past_key_values=part, **arguments).logits
            for model, part in zip((self.first, self.second), caches, strict=True)
        )
        if cache is not None:
            cache.layers = [*caches[0].layers, *caches[1].layers]
        return CausalLMOutputWithPast(logits=base - self.alpha * torch.relu(reinforced - base), past_key_values=cache)


def load(plugin, checkpoint, scheme: dict, device, **extra):
    """(model, description) of a checkpoint under a scheme, through the quantizer's load and describe, for each part."""
    model = plugin.load(checkpoint, scheme, device, **extra)
    described = plugin.describe(model, scheme)
    path = Path(checkpoint) / DESCRIPTION
    if not path.exists():
        return model, described
    second = plugin.load(Path(checkpoint) / SECOND, scheme, device, **extra)
    other = plugin.describe(second, scheme)
    described |= {key: described[key] + other[key] for key in ("bytes", "quantized")}
    return Pair(model, second, storage.read_json(path)["alpha"]).eval(), described
