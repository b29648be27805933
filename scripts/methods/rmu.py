"""Representation misdirection: steer the hidden states of forget text towards a fixed random direction at one layer.

L = mean (h_θ(x_f) − c · u)² + retain_weight · mean (h_θ(x_r) − h_θ0(x_r))², means over rows, positions and hidden units,
with h the output of one decoder layer, u a fixed unit vector with entries drawn uniformly from [0, 1) before it is
normalised, c the steering coefficient. Only what lies below the layer gets a gradient from it: all of it is trained here,
three matrices in the authors' code. A regularizer comes on top. Source: Li et al. 2024 (arXiv 2403.03218), section 4.
"""

import torch

from scripts.core.weights.models import decoder_layers

PARAMETERS = {
    "layer": {
        "type": ["integer", "null"],
        "default": None,
        "minimum": 0,
        "description": "decoder layer, counted from 0; null is the one at a quarter of the depth (7 of 32)",
    },
    "steering": {
        "type": "number",
        "default": 6.5,
        "exclusiveMinimum": 0,
        "maximum": 10000,
        "description": "steering coefficient c: the length of the vector that hidden states are moved to",
    },
    "retain_weight": {
        "type": "number",
        "default": 1200.0,
        "minimum": 0,
        "maximum": 1000000,
        "description": "weight of keeping the retain text's hidden states (α in its paper)",
    },
    "direction": {"type": "integer", "default": 0, "minimum": 0, "description": "seed of the random direction"},
}
NEEDS = ("model", "retain")
KIND = "training"
SEVERAL_GPUS = False  # it leaves the forward pass at a layer, where ZeRO waits for the end


class _Reached(Exception):
    """Carries a layer's output out of a forward pass that need not go on."""


def hidden_states(model, batch, layer):
    """(B, T, hidden) output of a decoder layer; what lies above it is not computed. ValueError for a layer it lacks."""
    layers = decoder_layers(model)
    index = max(0, len(layers) // 4 - 1) if layer is None else layer
    if index >= len(layers):
        raise ValueError(f"method.layer: {index} is not allowed; allowed: 0 to {len(layers) - 1}, the model's decoder layers")

    def stop(module, inputs, output):
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    hook = layers[index].register_forward_hook(stop)
    try:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    except _Reached as reached:
        return reached.args[0]
    finally:
        hook.remove()
    raise RuntimeError("the layer was not reached")


def unit(size: int, direction: int) -> torch.Tensor:
    """(size,) float32, the fixed direction of length 1; a function of its arguments alone."""
    vector = torch.rand(size, generator=torch.Generator().manual_seed(direction))
    return vector / vector.norm()


def loss(model, batch, reference, layer=None, steering=6.5, retain_weight=1200.0, direction=0):
    """Scalar steering loss on a forget batch; `reference` is not read."""
    states = hidden_states(model, batch, layer).float()
    return (states - steering * unit(states.shape[-1], direction).to(states.device)).square().mean()


def keep(model, batch, reference, layer=None, steering=6.5, retain_weight=1200.0, direction=0):
    """Scalar retain_weight · mean squared change of hidden states on a retain batch; reads `reference.model`."""
    with torch.no_grad():
        before = hidden_states(reference.model, batch, layer).float()
    return (hidden_states(model, batch, layer).float() - before).square().mean() * retain_weight
