"""Quantized models on disk: a folder with safetensors in the library's own layout and quantization.json beside them.

They are evaluated in the main environment: the checkpoint's model is loaded, and each quantized matrix is replaced by
its dequantized value. The other tensors of the folder (AWQ changes norms) replace theirs too.
"""

import json
from pathlib import Path

DESCRIPTION = "quantization.json"
LAYERS = ".layers."
UNCOUNTED = ("weight_shape", "shape", "bias", "input_scale", "output_scale")  # parts of a layer that no kernel would read
RECORDED = ("bits_per_weight", "bytes", "bytes_on_disk", "seconds", "calibration")  # what metric files tell of its making


def tensors(artifact) -> dict[str, dict]:
    """{layer name: {part: tensor}} of all tensors of a folder, e.g. {"model.norm": {"weight": …}}. On the CPU."""
    stored = Stored(artifact)
    return {layer: stored.parts(layer) for layer in stored.places}


def description(artifact) -> dict:
    """quantization.json of a folder; ValueError when the model was not quantized because its run had diverged."""
    content = json.loads((Path(artifact) / DESCRIPTION).read_text(encoding="utf-8"))
    if content["status"] != "ok":
        raise ValueError(f"artifact: {str(artifact)!r} is {content['status']!r}; allowed: a run that did not diverge")
    return content


def load(checkpoint, artifact, device, dequantize):
    """The checkpoint's model with the artifact's weights, in eval mode.

    `dequantize(parts)` → fp32 (rows, columns), where parts are a layer's tensors. Raises ValueError when a quantized layer of the
    model is not in the artifact.
    """
    from scripts.core.weights import quantization

    if artifact is None:
        raise ValueError("artifact: missing; allowed: a folder that scripts.quantize wrote")
    content = description(artifact)
    model = quantization.load_model(checkpoint, device)
    layers = dict(quantization.linears(model))
    stored = tensors(artifact)
    absent = [name for name in layers if name not in stored or "weight" in stored[name]]
    if absent:
        raise ValueError(f"artifact: {str(artifact)!r} has no quantized weights of {absent[0]} ({len(absent)} layers absent)")
    parameters = dict(model.named_parameters())
    for name, parts in stored.items():
        if name in layers:
            target = layers[name].weight
            target.data.copy_(dequantize({k: v.to(target.device) for k, v in parts.items()}))
        for part in ("weight", "bias"):
            if part in parts and f"{name}.{part}" in parameters:
                parameters[f"{name}.{part}"].data.copy_(parts[part])
    model.quantization = {key: content[key] for key in RECORDED if key in content}
    return model


def describe(model, scheme: dict) -> dict:
    """What scripts.quantize measured, with the layers that were quantized and those left alone."""
    from scripts.core.weights import quantization

    count = len(list(quantization.linears(model)))
    return {**model.quantization, "quantized": count, "left_alone": quantization.left_alone(model)}


class Stored:
    """The layers of a folder, read one at a time."""

    def __init__(self, artifact):
        from scripts.core.weights.quantization import tensors_on_disk

        files = sorted(Path(artifact).glob("*.safetensors"))
        if not files:
            raise ValueError(f"artifact: {str(artifact)!r} holds no *.safetensors; allowed: a folder that scripts.quantize wrote")
        self.places = {}
        for path in files:
            for key in tensors_on_disk(path):
                layer, part = key.rsplit(".", 1)
                self.places.setdefault(layer, {})[part] = path

    def parts(self, layer: str) -> dict:
        """{part: tensor} of one layer, on the CPU."""
        from safetensors import safe_open

        found = {}
        for part, path in self.places[layer].items():
            with safe_open(path, "pt") as file:
                found[part] = file.get_tensor(f"{layer}.{part}")
        return found


def matrices(headers: dict[str, dict]) -> list[str]:
    """Layer names of the matrices inside decoder blocks, from tensor headers: what is quantized, known without a model."""
    names = [key.removesuffix(".weight") for key, header in headers.items() if key.endswith(".weight")]
    return [name for name in names if LAYERS in f".{name}" and len(headers[f"{name}.weight"]["shape"]) == 2]


def measure(checkpoint, artifact) -> dict:
    """{"bits_per_weight", "bytes", "bytes_on_disk"} of a folder, from headers.

    Bits of all that the quantized matrices store (codes, scales, zero points, and the columns' groups where these are not
    just consecutive) per weight; bytes are of the whole model, the rest as the checkpoint stores it, so that schemes can be
    compared; bytes_on_disk are those of the folder's safetensors files, which may leave out what did not change.
    """
    import numpy as np
    from safetensors import safe_open

    from scripts.core.weights.quantization import tensors_on_disk

    original = tensors_on_disk(checkpoint)
    quantized = matrices(original)
    bits = 0
    for path in sorted(Path(artifact).glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for key, header in tensors_on_disk(path).items():
                layer, part = key.rsplit(".", 1)
                if layer not in quantized or part in UNCOUNTED:
                    continue
                if part.endswith("g_idx") and (np.diff(file.get_tensor(key)) >= 0).all():
                    continue
                first, last = header["data_offsets"]
                bits += (last - first) * 8
    weights = others = 0
    for key, header in original.items():
        shape, (first, last) = header["shape"], header["data_offsets"]
        if key.removesuffix(".weight") in quantized:
            weights += shape[0] * shape[1]
        else:
            others += last - first
    disk = sum(path.stat().st_size for path in Path(artifact).glob("*.safetensors"))
    return {"bits_per_weight": bits / weights, "bytes": round(bits / 8) + others, "bytes_on_disk": disk}
