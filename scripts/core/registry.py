"""Plugins found by file name, read without importing them.

A file `scripts/<room>/<name>.py` is the plugin `<name>`: the same word stands in config.yaml, in paths and in figures. What the
DAG needs to know of a plugin (its parameters, its environment, …) are literal assignments at the top of the file, in capitals;
they are read from the syntax tree, so that a login node builds the DAG without importing torch.
"""

import ast
import copy
import difflib
import importlib
import json
from functools import cache
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
ROOMS = ("methods", "regularizers", "quantizers", "metrics", "corpora", "figures")


class UnknownName(ValueError):
    """A name that no plugin or entry has; the message lists the known ones and the nearest."""


@cache
def names(room: str) -> tuple[str, ...]:
    """Sorted names of the plugins in a room."""
    assert room in ROOMS, room
    return tuple(sorted(p.stem for p in (SCRIPTS / room).glob("*.py") if not p.stem.startswith(("_", "."))))  # .: an editor's


def nearest(name, known) -> str:
    """The end of an error message: what is allowed, and what may have been meant."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(known) or '(none)'}{hint}"


def spelled(value) -> str:
    """A value as it is written in a configuration: a text of digits in quotes, nothing as null."""
    return (repr(value) if value.isdigit() else value) if isinstance(value, str) else json.dumps(value)


def require(room: str, name: str, key: str) -> str:
    """Return `name` if the room has it; else raise UnknownName that tells the config key."""
    if name not in names(room):
        raise UnknownName(f"{key}: unknown name {name!r} in {room}; {nearest(name, names(room))}")
    return name


@cache
def constants(room: str, name: str) -> dict:
    """Literal top-level assignments in capitals of a plugin file, e.g. {'PARAMETERS': {…}}; nothing is imported.

    `SHARES` names files of the room whose PARAMETERS are this plugin's too, e.g. ("_calibrated",); its own come on top.
    Also in the dict: "__doc__"; "__opaque__", the names in capitals whose values are no literals; and "__functions__", {name:
    syntax tree}, where a function that was imported has the tree of its import. ValueError for a file that is not Python.
    """
    path = SCRIPTS / room / f"{name}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        place = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"scripts/{room}/{name}.py{place}: {getattr(error, 'msg', error)}; allowed: Python") from error
    found = {"__doc__": ast.get_docstring(tree) or "", "__opaque__": set(), "__functions__": {}}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found["__functions__"][node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found["__functions__"] |= {part.asname or part.name: node for part in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            _enter_assignment(node, found)
    shared = [constants(room, other)["PARAMETERS"] for other in found.get("SHARES", ())]
    if shared:
        found["PARAMETERS"] = {k: v for part in (*shared, found.get("PARAMETERS", {})) for k, v in part.items()}
    return found


def _enter_assignment(node: ast.Assign | ast.AnnAssign, found: dict) -> None:
    """Enter what a top-level assignment binds: a literal in capitals by its value, and any name as what may be a function."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    bound = target.elts if isinstance(target, ast.Tuple) else [target]
    found["__functions__"] |= {one.id: node for one in bound if isinstance(one, ast.Name)}  # load = other.load
    if isinstance(target, ast.Name) and target.id.isupper():
        try:
            found[target.id] = ast.literal_eval(node.value)
        except (ValueError, TypeError):
            found["__opaque__"].add(target.id)


def parameters(room: str, name: str) -> dict:
    """JSON-schema properties of a plugin's parameters: {parameter: {type, default, description, bounds}}."""
    return constants(room, name).get("PARAMETERS", {})


def defaults(room: str, name: str) -> dict:
    """{parameter: default} of a plugin, a dict of its own."""
    return {parameter: copy.deepcopy(schema["default"]) for parameter, schema in parameters(room, name).items()}


def load(room: str, name: str):
    """Import a plugin's module."""
    require(room, name, room)
    return importlib.import_module(f"scripts.{room}.{name}")
