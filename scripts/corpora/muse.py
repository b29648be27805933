"""A corpus in the MUSE layout, from the hub or from a local folder (Shi et al., arXiv 2407.06460).

The hub data sets muse-bench/MUSE-News and muse-bench/MUSE-Books have the configs raw, knowmem, verbmem and privleak. A
local folder has the same names as files, e.g. raw/forget.json, each a list: of strings for raw and privleak, of
objects for the others. What `splits` and `tasks` list is taken and must be there; what they leave out need not exist,
so that a folder without retain text can still be evaluated on. A folder may have raw/pretrain.json, too, other text on which a
model is trained from scratch; MUSE has none.

Entries may say to which unit (an article, a chapter, a person) they belong, all of a file or none: objects by a key `unit`,
strings by a list as long in units/, e.g. units/raw/forget.json; a hub data set by a column `unit`. MUSE itself has none.
"""

from pathlib import Path

from scripts.core import hub
from scripts.core.storage import read_json, write_json

PARAMETERS = {
    "source": {
        "type": "string",
        "default": "muse-bench/MUSE-News",
        "minLength": 1,
        "description": "hub data set (owner/name) or local folder in the MUSE layout",
    },
    "revision": {
        "type": "string",
        "default": "main",
        "minLength": 1,
        "description": "branch, tag or commit of a hub data set",
    },
    "splits": {
        "type": "array",
        "items": {"enum": ["forget", "retain1", "retain2", "holdout", "pretrain"]},
        "default": ["forget", "retain1", "retain2", "holdout"],
        "minItems": 1,
        "uniqueItems": True,
        "description": "splits of raw to take; training needs forget and retain1, a model of kind scratch also pretrain",
    },
    "tasks": {
        "type": "array",
        "items": {"enum": ["knowmem", "verbmem", "privleak"]},
        "default": ["knowmem", "verbmem", "privleak"],
        "uniqueItems": True,
        "description": "evaluation data to take; each metric needs its own",
    },
}

TASKS = {
    "knowmem": ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl"),
    "verbmem": ("forget",),
    "privleak": ("forget", "retain", "holdout"),
}
# In a local folder only: MUSE itself has no verbatim task on retain text.
OPTIONAL = {"verbmem": ("retain",)}
UNIT, UNITS = "unit", "units"  # of an entry: its key or column, and the folder of the lists
# What an entry holds; a single name stands for a plain string (the hub's column of that name).
FIELDS = {"raw": "text", "privleak": "text", "knowmem": ("question", "answer"), "verbmem": ("prompt", "gt")}


def check(settings: dict) -> None:
    """Raise ValueError (one line) for a source that cannot be read: each file of a local folder is looked at.

    Offline by construction: of a hub data set only its name is judged, and, when the libraries are told to stay
    offline, whether it is cached.
    """
    source, key = settings["source"], _key(settings)
    if Path(source).is_dir():
        for config, split in wanted(settings):
            _local_units(source, config, split, len(_local(source, config, split, key)), key)
        return
    if not hub.DATA_SET.fullmatch(source):
        allowed = "a local folder, or a hub id owner/name (its revision is `revision`)"
        raise ValueError(f"{key}.source: {source!r} is not a folder; allowed: {allowed}")
    offline = hub.offline("HF_DATASETS_OFFLINE")
    if offline and not hub.cached("datasets", source):
        raise ValueError(
            f"{key}.source: hub id {source!r} while {offline} is set and nothing is cached; allowed: a local folder in "
            f"the MUSE layout, or {offline}=0"
        )


def build(settings: dict, out) -> None:
    """Write the wanted files below the folder `out`; ValueError for one that is missing, empty or of another form."""
    check(settings)
    source, key = settings["source"], _key(settings)
    local = Path(source).is_dir()
    for config, split in wanted(settings):
        if local:
            items = _local(source, config, split, key)
            units = _local_units(source, config, split, len(items), key)
        else:
            items, units = _hub(source, config, split, settings["revision"], key)
        write_json(Path(out) / config / f"{split}.json", items)
        if units:
            write_json(Path(out) / UNITS / config / f"{split}.json", units)


def wanted(settings: dict) -> list[tuple[str, str]]:
    """(config, split) of every file to take, e.g. ("raw", "forget")."""
    found = [("raw", split) for split in settings["splits"]]
    for task in settings["tasks"]:
        found += [(task, split) for split in TASKS[task]]
        for split in OPTIONAL.get(task, ()):
            if (Path(settings["source"]) / task / f"{split}.json").is_file():
                found.append((task, split))
    return found


def files(settings: dict) -> list[str]:
    """The same as names below the corpus's data, e.g. "raw/forget"."""
    return [f"{config}/{split}" for config, split in wanted(settings)]


def _local(source: str, config: str, split: str, key: str) -> list:
    path = Path(source) / config / f"{split}.json"
    if not path.is_file():
        part = "splits" if config == "raw" else "tasks"
        raise ValueError(f"{key}.source: {path} is missing; allowed: a folder that has it, or {key}.{part} without it")
    try:
        items = read_json(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}.source: {error}; allowed: a JSON list") from error
    return _checked(items, config, str(path), key)


def _local_units(source: str, config: str, split: str, entries: int, key: str) -> list | None:
    """The units of a file of strings, None where the folder names none."""
    path = Path(source) / UNITS / config / f"{split}.json"
    if not isinstance(FIELDS[config], str) or not path.is_file():
        return None
    try:
        units = read_json(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{key}.source: {error}; allowed: a JSON list") from error
    return _checked_units(units, entries, str(path), key)


def _checked_units(units, entries: int, where: str, key: str) -> list:
    """Return `units` if it is a list of as many strings as there are entries; else ValueError."""
    if not isinstance(units, list) or len(units) != entries or not all(unit and isinstance(unit, str) for unit in units):
        raise ValueError(f"{key}.source: {where} is no list of {entries} names; allowed: the unit of each entry, a string")
    return units


def _hub(source: str, config: str, split: str, revision: str, key: str) -> tuple[list, list | None]:
    """(entries, their units where these are apart) of a file of a hub data set."""
    import datasets

    where = f"{source}/{config}/{split}"
    try:
        table = datasets.load_dataset(source, config, split=split, revision=revision)
    except (ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{key}.source: {where} cannot be loaded ({reason}); allowed: a hub data set that has it") from error
    fields = FIELDS[config]
    missing = [name for name in ([fields] if isinstance(fields, str) else fields) if name not in table.column_names]
    if missing:
        raise ValueError(f"{key}.source: {where} has no column {missing[0]!r}; allowed: a data set with the columns of MUSE")
    # Splits of a config share their columns: one without units gets the others' column, empty.
    with_units = UNIT in table.column_names and any(unit is not None for unit in table[UNIT])
    if isinstance(fields, str):
        items = _checked(list(table[fields]), config, where, key)
        return items, _checked_units(list(table[UNIT]), len(items), where, key) if with_units else None
    names = (*fields, UNIT) if with_units else fields
    return _checked([{name: row[name] for name in names} for row in table], config, where, key), None


def _checked(items, config: str, where: str, key: str) -> list:
    """Return `items` if it is a list of the entries that the config has; else ValueError."""
    fields = FIELDS[config]
    if not isinstance(items, list) or not any(items):
        raise ValueError(f"{key}.source: {where} is empty or no list; allowed: a list with at least one entry")
    for i, item in enumerate(items):
        if isinstance(fields, str):
            # Single entries may be empty: MUSE-News has such articles.
            form, fits = "strings", isinstance(item, str)
        else:
            form = f"objects with the strings {' and '.join(fields)}"
            fits = isinstance(item, dict) and all(isinstance(item.get(name), str) for name in fields)
        if not fits:
            raise ValueError(f"{key}.source: {where}, entry {i} is {str(item)[:60]!r}; allowed: {form}")
    if not isinstance(fields, str) and any(UNIT in item for item in items):
        _checked_units([item.get(UNIT) for item in items], len(items), f"{where}, key {UNIT!r},", key)
    return items


def _key(settings: dict) -> str:
    return f"corpora.{settings['name']}" if "name" in settings else "corpus"
