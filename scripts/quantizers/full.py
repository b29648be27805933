"""Full precision: the checkpoint as stored. A scheme like any other, so that it flows through the same jobs."""

PARAMETERS = {}
ENVIRONMENT = "train"
ARTIFACT = False
HARDWARE = ["cpu", "cuda"]
SERVED = True
SOURCE = "no quantization; weights as the checkpoint stores them"


def load(checkpoint, scheme: dict, device, artifact=None):
    """The model in eval mode: fp32 on a CPU, the stored type on a GPU."""
    from scripts.core.weights.quantization import load_model

    return load_model(checkpoint, device)


def held(weight, scheme: dict):
    """(values, codes, edge) of one matrix, see docs/mechanism.md: nothing is rounded, so there are no codes and no edge."""
    return weight.float(), None, None


def describe(model, scheme: dict) -> dict:
    """{"bits_per_weight", "bytes", "quantized": 0, "left_alone": all Linear and Embedding layers}."""
    from scripts.core.weights.quantization import report

    return report(model)
