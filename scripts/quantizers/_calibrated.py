"""Parameters of every scheme that looks at text while it chooses its scales, and their check."""

from scripts.core.planning import calibration
from scripts.core.weights import quantization

PARAMETERS = {
    "calibration": {
        "type": "string",
        "enum": ["generic", "forget", "retain"],
        "default": "generic",
        "description": "text that the layers see while scales are chosen",
    },
    "samples": {"type": "integer", "minimum": 1, "default": 16, "description": "calibration windows"},
    "length": {"type": "integer", "minimum": 2, "default": 128, "description": "tokens per calibration window"},
    "calibration_seed": {"type": "integer", "minimum": 0, "default": 0, "description": "which windows are taken"},
    "text": {
        "type": ["string", "null"],
        "default": None,
        "description": "a text file for calibration: generic; null is the sample in scripts/data",
    },
}


def check(scheme: dict, model_shape: dict | None = None) -> None:
    """ValueError for a group that does not divide a layer, and for a calibration set that can't be had."""
    quantization.check_group(scheme["group"], model_shape)
    calibration.check(scheme)
