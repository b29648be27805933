"""Checks of values against JSON-schema properties, with errors a person can act on.

A thin layer over jsonschema: defaults are filled in, unknown keys are answered with the nearest known one, and every error
is one line that names the key, the value and what is allowed.
"""

import copy
import math
import re

from jsonschema import Draft202012Validator, ValidationError, validators

from scripts.core.registry import nearest, spelled


def is_integer(checker, value) -> bool:
    """Whole numbers alone: JSON schema counts 5.0 as one, but it makes another path and another spec than 5."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(checker, value) -> bool:
    """Finite numbers: YAML's .inf and .nan fit into no spec."""
    return is_integer(checker, value) or isinstance(value, float) and math.isfinite(value)


def matches(validator, pattern, value, schema):
    """Patterns are of whole texts: Python's $ also stands before a last line break, which YAML's block texts end with."""
    if validator.is_type(value, "string") and not re.fullmatch(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


TYPES = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": is_integer, "number": is_number})
Validator = validators.extend(Draft202012Validator, {"pattern": matches}, type_checker=TYPES)


WORDS = {"object": "mapping", "array": "list", "number": "finite number"}  # YAML's for JSON's


class ConfigError(ValueError):
    """One line: key, value, what is allowed."""


def allowed(schema: dict) -> str:
    """What a schema admits, in words."""
    if "enum" in schema:
        return "one of " + ", ".join(spelled(value) for value in schema["enum"])
    if "const" in schema:
        return repr(schema["const"])
    kinds = schema.get("type", "value")
    words = " or ".join(WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    words += f" of {allowed(schema['items'])}" if "enum" in schema.get("items", {}) else ""
    bounds = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    words += "".join(f", {sign} {schema[key]}" for key, sign in bounds if key in schema)
    extras = {
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {} items",
        "minProperties": "at least {} entries",
    }
    words += "".join(", " + text.format(schema[key]) for key, text in extras.items() if key in schema)
    words += ", each once" if schema.get("uniqueItems") else ""
    return words + (f", matching {schema['pattern']}" if "pattern" in schema else "")


def check_value(value, schema: dict, key: str) -> None:
    """Raise ConfigError unless a scalar or list satisfies its schema."""
    schema = {"type": "object"} if "$ref" in schema else schema  # the section behind a reference is checked on its own
    problem = next(Validator(schema).iter_errors(value), None)
    if problem is None:
        return
    where = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.path)
    if problem.validator == "required":
        name = next(name for name in problem.schema["required"] if name not in problem.instance)
        raise ConfigError(f"{where}.{name}: missing in {problem.instance!r}; allowed: a mapping with {name}")
    raise ConfigError(f"{where}: {problem.instance!r} is not allowed; allowed: {allowed(problem.schema)}")


def check_object(value, properties: dict, key: str, required=()) -> dict:
    """A copy of `value` with defaults filled in; ConfigError for unknown or missing keys and for values out of bounds."""
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: {value!r} is not allowed; allowed: a mapping with keys among {', '.join(sorted(properties))}")
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in properties:
            raise ConfigError(f"{prefix}{name}: unknown key (value {value[name]!r}); {nearest(name, properties)}")
    for name in required:
        if name not in value:
            raise ConfigError(f"{prefix}{name}: missing; allowed: {allowed(properties[name])}")
    filled = {}
    for name, schema in properties.items():
        if name in value and schema.get("format") == "learning-rate":
            filled[name] = learning_rate(value[name], prefix + name)
        elif name in value:
            check_value(value[name], schema, prefix + name)
            filled[name] = one_spelling(value[name], schema)
        elif "default" in schema:
            filled[name] = copy.deepcopy(schema["default"])
    return filled


def one_spelling(value, schema: dict):
    """A copy of a value; 1 and 1.0 become one where a number is asked for, so that specs, and what was cached, are the same."""
    kinds = schema.get("type", ())
    if "number" not in ([kinds] if isinstance(kinds, str) else kinds) or value is None:
        return copy.deepcopy(value)
    return schema["default"] if value == schema.get("default") else float(value)


def learning_rate(text, key: str) -> str:
    """The canonical spelling of a learning rate given as quoted text, '0.00001' → '1e-5'; ConfigError otherwise."""
    rule = "a positive number in quotes, e.g. '1e-5'"
    if not isinstance(text, str):
        raise ConfigError(f"{key}: {text!r} is not quoted; allowed: {rule}")
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is not a number; allowed: {rule}") from None
    if not 0 < number < 1:
        raise ConfigError(f"{key}: {text!r} is out of bounds; allowed: {rule}, below 1")
    mantissa, exponent = f"{number:.6e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
