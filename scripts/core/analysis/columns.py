"""The columns of a sweep's tables, <results>/<name>.csv: one place for whoever writes a table and whoever reads it."""

# What names a run, in tables of weights, masks and costs.
LABELS = ["run", "corpus", "method", "regularizer", "lr", "weights", "moments", "setting", "seed"]
# What the seeds of one cell have in common.
GROUP = ["corpus", "method", "regularizer", "lr", "weights", "moments", "setting", "checkpoint"]

CELL = ["run", *GROUP, "step", "seed", "scheme", "metric", "kind", "split"]
SCORES = [*CELL, "value", "low", "high", "n", "status", "reason", "interval", "seeds", "bits_per_weight"]
RECOVERY = [*CELL, "status", "K", "K_low", "K_high", "K_reason", "R", "R_low", "R_high", "R_reason"]
RECOVERY += ["unlearned", "unlearned_full", "target", "n", "interval", "seeds", "bits_per_weight"]

MASKS = [*LABELS, "objective", "saliency", "percentile", "threshold", "weight", "layer", "module", "norm", "trained", "status"]

RATIOS = ["changed", "code_changed", "value_changed", "survived", "projection", "noise", "snr", "noise_ratio", "relative_step"]
RATIOS += ["kept", "first_order"]
MECHANISM = [*LABELS, "scheme", "module", "status", "n", *RATIOS, "edge", "reach"]
MOVED = ["run", "scheme", "what", "log2", "count"]

COSTS = [*LABELS, "scheme", "device", "train_hours", "quantize_hours", "evaluate_hours", "mechanism_hours"]
COSTS += ["checkpoint_bytes", "model_bytes", "artifact_bytes"]

PREDICTION = [*LABELS, "scheme", "metric", "kind", "split", "left_out", "predictor", "R", "R_low", "R_high"]
PREDICTION += ["predicted", "interval"]
FITTED = ["R2", "slope", "intercept", "error", "coverage"]  # each with its interval
FIT = ["metric", "kind", "left_out", "predictor", "cells", "runs", "unused"]
FIT += [name + end for name in FITTED for end in ("", "_low", "_high")] + ["reason"]

SCHEMES = [*GROUP, "run", "seed", "scheme", "quantizer", "parameters", "bits_per_weight", "bytes", "bytes_on_disk"]
SCHEMES += ["seconds", "quantized", "left_alone", "calibration"]

CALIBRATION_EFFECT = [*RECOVERY, "quantizer", "bits", "family", "calibration", "base", "D", "D_low", "D_high", "D_reason"]

TABLES = {
    "scores": SCORES,
    "recovery": RECOVERY,
    "masks": MASKS,
    "mechanism": MECHANISM,
    "moved": MOVED,
    "costs": COSTS,
    "prediction": PREDICTION,
    "prediction_fit": FIT,
    "schemes": SCHEMES,
    "calibration_effect": CALIBRATION_EFFECT,
}
