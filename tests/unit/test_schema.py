"""The schema and the plugins document every key; the configurations that are shipped agree with them."""

import json

import pytest
import yaml

from scripts.core import registry
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.planning.checking import check_value

ROOT = registry.SCRIPTS.parent


def test_every_schema_key_has_description_and_type():
    """The schema documents the configuration: no key without words, no default out of its own bounds."""

    def walk(node, where):
        for name, part in node.get("properties", {}).items():
            if "$ref" not in part and "const" not in part:
                assert part.get("description"), f"{where}.{name} has no description"
                assert "type" in part or "enum" in part, f"{where}.{name} has no type"
            if "default" in part:
                check_value(part["default"], part, f"{where}.{name}")
            walk(part, f"{where}.{name}")

    schema = configuration.schema()
    walk(schema, "")
    for name, part in schema["$defs"].items():
        walk(part, name)


def test_plugin_parameters_are_described():
    for room in registry.ROOMS:
        for name in registry.names(room):
            assert registry.constants(room, name)["__doc__"], f"{room}/{name} has no docstring"
            for parameter, part in registry.parameters(room, name).items():
                assert part.get("description"), f"{room}/{name}: {parameter} has no description"
                if "default" in part:
                    check_value(part["default"], part, f"{room}.{name}.{parameter}")


def test_config_yaml_names_every_top_level_key():
    """config.yaml shows every key of the schema that a user may want to change, at the top and in these two sections."""
    written = yaml.safe_load((ROOT / "config.yaml").read_text())
    schema = configuration.schema()["properties"]
    assert set(written) == set(schema) - {"partial"}
    for section in ("evaluation", "resources"):
        assert set(written[section]) == set(schema[section]["properties"])


@pytest.mark.parametrize("path", ["config.yaml", "tests/workflow/micro.yaml", "profiles/demo/sweep.yaml"])
def test_shipped_configurations_resolve_and_are_stable(path):
    """Resolving twice gives the same specs: order of keys or of cells plays no part."""
    config = yaml.safe_load((ROOT / path).read_text())
    first = grid.plan(configuration.resolve(config)).texts()
    config["sweep"].reverse()
    shuffled = json.loads(json.dumps(config, sort_keys=True))
    assert grid.plan(configuration.resolve(shuffled)).texts() == first
