"""bitsandbytes' LLM.int8() (arXiv 2208.07339): weights in int8 with a scale per row, activations with one per token.

Weights: q = round(127·w/max|w| of the row), after a cast to fp16. Columns in which any activation of the batch reaches
`threshold` are multiplied in higher precision, so a result may depend, in the last digits, on what shares a batch.
"""

PARAMETERS = {
    "threshold": {
        "type": "number",
        "minimum": 0,
        "default": 6.0,
        "description": "activations from this size on are not quantized; 0 quantizes all",
    },
}
ENVIRONMENT = "train"
ARTIFACT = False
HARDWARE = ["cpu", "cuda"]
SOURCE = "bitsandbytes through transformers"


def load(checkpoint, scheme: dict, device, artifact=None):
    """The model in eval mode."""
    import logging

    from transformers import BitsAndBytesConfig

    from scripts.core.weights.quantization import load_model
    from scripts.quantizers._bnb import import_library

    import_library()
    # It warns in every forward pass of every layer that activations pass through fp16, which is how LLM.int8() is
    # defined.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=scheme.get("threshold", 6.0))
    return load_model(checkpoint, device, config)


def held(weight, scheme: dict):
    """(values, codes, edge) of one matrix: fp32 (rows, columns), int8 codes, and the median |w| that rounds to 0 at most.

    Activations are rounded too when the model runs; that is no part of the weights.
    """
    from scripts.quantizers._bnb import import_library

    import_library()
    from bitsandbytes.functional import int8_vectorwise_quant

    codes, largest, _ = int8_vectorwise_quant(weight.half())
    return codes.float() * largest[:, None] / 127, codes, largest.median().item() / 254


def describe(model, scheme: dict) -> dict:
    """{"bits_per_weight", "bytes", "quantized", "left_alone"}; 8 bits and an fp32 scale per row."""
    from scripts.core.weights.quantization import report

    return report(model, lambda rows, cols: rows * cols * 8 + rows * 32)
