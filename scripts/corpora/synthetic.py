"""Seeded biographies of invented people, with question-answer lines: an unlearning corpus that needs no download.

Every fact is drawn at random for its person alone, so a model that never read about a person cannot guess it: what a
retrained model scores is the floor of the templates, and what a target scores above it is memory. People are unique
across all splits.

The training text holds the passages and the questions in the very form in which VerbMem and KnowMem prompt ("Question: …" and
"Answer: …", a blank line between pairs), so that a model trained from scratch on it can be evaluated as MUSE evaluates pretrained
ones (Shi et al., arXiv 2407.06460). Each person's texts occur `repeats` times, in a new order each time, so that what is learned of
a passage is not tied to one place in a training chunk.

Whom a text is about is its unit: the key `unit` of questions and passages to continue, and for the lists of plain texts a
list as long in units/ (units/raw/forget.json beside raw/forget.json). Intervals are over these (docs/metrics.md).
"""

import random
from pathlib import Path

from scripts.core.storage import write_json

PARAMETERS = {
    "seed": {"type": "integer", "default": 0, "minimum": 0, "description": "seed of all names, facts and orders"},
    "forget_people": {"type": "integer", "default": 16, "minimum": 2, "description": "people to be unlearned"},
    "retain_people": {
        "type": "integer",
        "default": 48,
        "minimum": 3,
        "description": "people of retain1, the retain text of training",
    },
    "retain2_people": {
        "type": "integer",
        "default": 8,
        "minimum": 1,
        "description": "people of retain2, retain text that no regularizer sees",
    },
    "holdout_people": {
        "type": "integer",
        "default": 16,
        "minimum": 2,
        "description": "people that no model is trained on",
    },
    "pretrain_people": {
        "type": "integer",
        "default": 400,
        "minimum": 0,
        "description": "other people, for the base model trained from scratch; 0 leaves raw/pretrain out",
    },
    "asked_people": {
        "type": "integer",
        "default": 16,
        "minimum": 1,
        "description": "people of retain1 that VerbMem, KnowMem and PrivLeak ask about; below retain_people, as the "
        "in-context examples are about the others",
    },
    "events": {"type": "integer", "default": 5, "minimum": 2, "description": "sentences of a passage after its first"},
    "questions": {
        "type": "integer",
        "default": 3,
        "minimum": 1,
        "maximum": 5,
        "description": "question-answer lines per person",
    },
    "examples": {"type": "integer", "default": 10, "minimum": 0, "description": "in-context pairs of KnowMem"},
    "repeats": {"type": "integer", "default": 1, "minimum": 1, "description": "occurrences of each text in training"},
}

FIRST = (
    "Ada Bruno Clara Dmitri Elena Farid Greta Hiro Ines Jonas Kavya Luca Mira Nadia Omar Petra Quentin Rosa Sven Tara "
    "Uma Viktor Wen Ximena Yusuf Zora Anselm Beatriz Cyril Delia Emil Freya Gustav Helga Ivo Jadwiga Kofi Leila Magnus "
    "Noor Otto Paloma Ravi Selma Tobias Ulla Vera Wanda"
).split()
LAST = (
    "Abbott Becker Castro Duarte Eriksen Fontaine Gupta Hansen Ito Jansen Kovac Lindgren Moreau Novak Okafor Pereira "
    "Quist Rossi Silva Tanaka Ueda Vargas Weber Xu Yilmaz Zhang Amsel Brandt Coelho Dahl Engel Falk Grimaldi Horvat "
    "Ibsen Juarez Keller Lund Mancini Nyberg Orlov Petit Reyes Strand Toth Urban Vidal Wolff"
).split()
JOBS = (
    "pilot baker cellist botanist welder surgeon cartographer glazier beekeeper sculptor lawyer chemist tailor sailor "
    "farmer printer weaver judge diver potter teacher jeweller smith nurse miner scribe barber dancer ranger tanner "
    "mason broker juggler poet clerk cook"
).split()
CITIES = (
    "Lisbon Oslo Quito Nairobi Kyoto Perth Riga Tunis Porto Lima Hanoi Cork Graz Turin Bergen Leeds Basel Cairo Delhi "
    "Dakar Malmo Seoul Accra Ghent Minsk Varna Brno Genoa Havana Izmir Lyon Manila Osaka Plovdiv Sofia Tampere"
).split()
THINGS = (
    "clock medal bicycle piano bridge radio kettle lantern canoe bell mirror ladder violin carpet barrel rudder "
    "telescope chest wheel statue fountain saddle map crown trumpet vase gate basket mill sword drum cradle pillow "
    "flute globe harp"
).split()
LOOKS = (
    "silver red glass stone wooden copper paper blue tin green golden broken painted heavy tiny hollow carved black "
    "brass velvet marble striped rusty woven white round tall borrowed ancient bent"
).split()
ACTS = (
    "restored designed repaired inherited discovered sold photographed donated buried copied traced wrapped "
    "polished lost auctioned measured shipped sketched rented guarded"
).split()
COINS = "crowns francs pounds dollars pesos rupees marks florins ducats lire".split()

# Few words are shared between sentences, as every shared word raises what an ignorant model scores in ROUGE.
EVENTS = (
    "In {year} {first} {act} a {look} {thing} near {city}.",
    "{City} paid {number} {coin} for the {look} {thing}.",
    "Then {other} the {job} {act} it, {year}.",
    "{number} {thing}s went from {city} to {city2}.",
    "With {other} of {city}, a {look} {thing} was {act}.",
    "A {look} {thing} cost {number} {coin} in {year}.",
    "The {job} of {city} {act} {number} {look} {thing}s.",
)
QUESTIONS = (
    ("Where was {name} born?", "born"),
    ("What was the job of {name}?", "job"),
    ("When was {name} born?", "year"),
    ("What did {name} collect?", "collected"),
    ("Where did {name} retire?", "retired"),
)
SPLITS = ("pretrain", "forget", "retain1", "retain2", "holdout")
TASKS = (("verbmem", ""), ("knowmem", "_qa"), ("knowmem", "_qa_icl"))
COUNTS = ("pretrain_people", "forget_people", "retain_people", "retain2_people", "holdout_people")


def person(name: str, seed: int, events: int, questions: int) -> dict:
    """One person: {"name", "opening": first sentence, "rest": the other sentences, "pairs": [{question, answer}, …]}."""
    draw = random.Random(f"{seed}/{name}")
    first = name.split()[0]
    facts = {
        "born": draw.choice(CITIES),
        "job": draw.choice(JOBS),
        "year": str(draw.randint(1800, 1999)),
        "collected": draw.choice(THINGS) + "s",
        "retired": draw.choice(CITIES),
    }
    opening = f"{name} was born in {facts['born']} in {facts['year']}, became a {facts['job']}, "
    opening += f"collected {facts['collected']} and retired to {facts['retired']}."
    sentences = [draw.choice(EVENTS).format_map(_Words(draw, first)) for _ in range(events)]
    pairs = [{"question": text.format(name=name), "answer": facts[fact]} for text, fact in QUESTIONS[:questions]]
    return {"name": name, "opening": opening, "rest": " ".join(sentences), "pairs": pairs}


class _Words(dict):
    """Draws a word of its kind whenever a template names one."""

    def __init__(self, draw, first):
        self.draw, self.first = draw, first

    def __missing__(self, kind):
        choices = {"act": ACTS, "look": LOOKS, "thing": THINGS, "job": JOBS, "coin": COINS, "other": FIRST}
        if kind == "first":
            return self.first
        if kind in ("year", "number"):
            return str(self.draw.randint(*((1800, 1999) if kind == "year" else (2, 99))))
        return self.draw.choice(choices.get(kind, CITIES))


def check(settings: dict) -> None:
    """Raise ValueError (one line) for counts that do not fit each other; reads nothing."""
    key = f"corpora.{settings['name']}" if "name" in settings else "corpus"
    total = sum(settings[count] for count in COUNTS)
    known = len(FIRST) * len(LAST)
    if total > known:
        raise ValueError(f"{key}: {total} people over all splits; allowed: at most {known}, as names are unique")
    asked, retain = settings["asked_people"], settings["retain_people"]
    if asked >= retain:
        raise ValueError(
            f"{key}.asked_people: {asked} is not below retain_people {retain}; allowed: fewer, as the in-context "
            "examples are about the people not asked about"
        )


def files(settings: dict) -> list[str]:
    """The files that `build` writes, as names below the corpus's data, e.g. "raw/forget"; a split of nobody has none."""
    raw = [f"raw/{split}" for split, count in zip(SPLITS, COUNTS, strict=True) if settings[count]]
    asked = [f"{task}/{split}{end}" for split in ("forget", "retain") for task, end in TASKS]
    return raw + asked + [f"privleak/{split}" for split in ("forget", "retain", "holdout")]


def build(settings: dict, out) -> None:
    """Write the corpus in the MUSE layout below the folder `out`; equal settings give equal bytes."""
    check(settings)
    out, seed = Path(out), settings["seed"]
    draw = random.Random(f"{seed}/names")
    names = draw.sample([f"{first} {last}" for first in FIRST for last in LAST], sum(settings[c] for c in COUNTS))
    people = {}
    for split, count in zip(SPLITS, COUNTS, strict=True):
        taken, names = names[: settings[count]], names[settings[count] :]
        people[split] = [person(name, seed, settings["events"], settings["questions"]) for name in taken]
        if taken:
            owned = texts(people[split], settings["repeats"], f"{seed}/{split}", split == "pretrain")
            write_json(out / "raw" / f"{split}.json", [text for _, text in owned])
            if split != "pretrain":  # which nothing is scored on
                write_json(out / "units/raw" / f"{split}.json", [name for name, _ in owned])

    asked = {"forget": people["forget"], "retain": people["retain1"][: settings["asked_people"]]}
    others = people["retain1"][settings["asked_people"] :]
    for shift, (split, group) in enumerate(asked.items()):
        items = [{"prompt": one["opening"], "gt": " " + one["rest"], "unit": one["name"]} for one in group]
        write_json(out / "verbmem" / f"{split}.json", items)
        write_json(out / "knowmem" / f"{split}_qa.json", [pair | {"unit": one["name"]} for one in group for pair in one["pairs"]])
        write_json(out / "knowmem" / f"{split}_qa_icl.json", examples(others, settings["examples"], shift))
    for split, group in (asked | {"holdout": people["holdout"]}).items():
        write_json(out / "privleak" / f"{split}.json", [passage(one) for one in group])
        write_json(out / "units/privleak" / f"{split}.json", [one["name"] for one in group])


def passage(one: dict) -> str:
    """The running text about a person."""
    return f"{one['opening']} {one['rest']}"


def line(pair: dict) -> str:
    """A question with its answer, as KnowMem prompts with them."""
    return f"Question: {pair['question']}\nAnswer: {pair['answer']}"


def texts(people: list[dict], repeats: int, seed: str, mixed: bool = False) -> list[tuple[str, str]]:
    """(name, training text) pairs: in each repeat the people in a new order, of each first the question-answer lines, then passage.

    The lines come first so that no answer can be copied from the passage, and a person's texts stay together so that
    little of the text (a name every now and then) is left to chance: what is not memory only blurs a forget loss.
    `mixed` takes every other repeat apart, passages first and then the lines of all people in one shuffled list.
    """
    draw, found = random.Random(seed), []
    for k in range(repeats):
        order = draw.sample(people, len(people))
        if mixed and k % 2:
            lines = [(one["name"], line(pair)) for one in people for pair in one["pairs"]]
            found += [(one["name"], passage(one)) for one in order] + draw.sample(lines, len(lines))
        else:
            for one in order:
                found += [(one["name"], text) for text in [*map(line, one["pairs"]), passage(one)]]
    return found


def examples(people: list[dict], count: int, shift: int) -> list[dict]:
    """`count` pairs, all of one person's before the next one's; `shift` is the first person taken, round the list."""
    found = []
    for k in range(len(people)):
        found += people[(k + shift) % len(people)]["pairs"]
    return found[:count]
