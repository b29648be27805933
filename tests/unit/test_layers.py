"""What is known of a model before any job, from its shape or its files: layers for LoRA, sizes that groups must divide."""

import numpy as np
import pytest

from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.planning.checking import ConfigError
from scripts.core.planning.plan import Plan
from tests.unit.test_config import MUSE, changed


def test_a_group_is_compared_with_a_local_model(tmp_path):
    """Also where the model is not trained from scratch, when its config.json is at hand; a hub's model is left to the job."""
    (tmp_path / "config.json").write_text('{"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4}')
    entry = {"kind": "pretrained", "target": str(tmp_path), "retrain": str(tmp_path)}
    shape = configuration.known_shape(entry)
    with pytest.raises(ValueError, match="schemes.q.group: 64 does not divide the 96 columns of q_proj"):
        configuration.ask("quantizers", "hqq", "schemes.q", {"bits": 4, "group": 64}, shape)
    assert configuration.known_shape({"kind": "finetune", "base": "some/model"}) is None


def lora_on(model: dict, targets: str) -> Plan:
    """The plan of one LoRA cell with these targets on a MUSE corpus of a model; nothing is loaded."""
    config = changed("corpora/people", MUSE | {"model": model})
    config["sweep"] = [{"corpus": "people", "method": "ga", "parameters": "lora", "lora_targets": targets}]
    return grid.plan(configuration.resolve(config))


def test_lora_targets_are_compared_with_a_local_model(tmp_path):
    """Its safetensors files name its matrices; embeddings and the head get no update, a hub's model is left to the job."""
    from safetensors.numpy import save_file

    names = {"transformer.h.0.attn.c_proj.weight": (4, 4), "transformer.h.0.ln.weight": (4,), "lm_head.weight": (9, 4)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in names.items()}, tmp_path / "model.safetensors")
    local = {"kind": "pretrained", "target": str(tmp_path), "retrain": str(tmp_path)}
    assert len(lora_on(local, "c_proj").cells) and len(lora_on(MUSE["model"], "c_proj").cells)
    for wrong in ("proj", "ln", "lm_head", "q_proj"):
        with pytest.raises(
            ConfigError, match=rf"sweep\[0\].lora_targets: '{wrong}' matches no Linear layer.*allowed: all, or c_proj$"
        ):
            lora_on(local, wrong)
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    assert len(lora_on(local, "q_proj").cells)  # what can't be read is the job's to say


def test_known_layers_are_those_of_the_model_that_is_built():
    """What is known of a scratch model without torch is what LoRA finds in it."""
    from scripts.core.planning import layers
    from scripts.core.training import lora
    from scripts.core.weights import models
    from tests.unit.test_trajectories import SHAPE, Vocabulary

    model = models.build_model(SHAPE, Vocabulary(pad_token_id=0, bos_token_id=1, eos_token_id=2))
    assert sorted(lora.targets(model, "all")) == sorted(layers.linear_names({"kind": "scratch", "layers": SHAPE["layers"]}))
