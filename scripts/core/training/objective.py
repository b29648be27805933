"""What an unlearning run minimises: the terms of its method and of its regularizer, from their plugins. No torch here."""

from dataclasses import dataclass
from types import ModuleType

from scripts.core import registry


@dataclass(frozen=True)
class Part:
    """A method or a regularizer: its name, its plugin's module, and its parameters with defaults filled in."""

    name: str
    module: ModuleType
    parameters: dict

    @classmethod
    def of(cls, room: str, choice: dict):
        """From spec["method"] or spec["regularizer"]: {"name": …, parameters}. ValueError for an unknown name or parameter."""
        key = room.removesuffix("s")
        name = registry.require(room, choice["name"], key)
        given, known = {k: v for k, v in choice.items() if k != "name"}, registry.parameters(room, name)
        for parameter in given:
            if parameter not in known:
                raise ValueError(f"{key}.{parameter}: unknown parameter of {name!r}; {registry.nearest(parameter, known)}")
        return cls(name, registry.load(room, name), registry.defaults(room, name) | given)


@dataclass(frozen=True)
class Objective:
    """total = method.loss(forget batch) + alpha · regularizer.loss(retain batch), for any method with any regularizer.

    A method with "retain" among its NEEDS has a term of its own on the retain batch, too: keep. Terms are scalars;
    reference: scripts.core.training.reference.Reference of θ_0.
    """

    method: Part
    regularizer: Part

    @classmethod
    def of(cls, method: dict, regularizer: dict):
        """From the two entries of a spec, e.g. {"name": "npo", "beta": 0.1} and {"name": "gdr"}."""
        return cls(Part.of("methods", method), Part.of("regularizers", regularizer))

    @property
    def parts(self) -> tuple[Part, Part]:
        """Method and regularizer."""
        return self.method, self.regularizer

    @property
    def needs(self) -> set[str]:
        """What the terms ask for besides the forget batch."""
        return {need for part in self.parts for need in part.module.NEEDS}

    @property
    def alpha(self) -> float:
        """Weight of the retain term."""
        return self.regularizer.parameters.get("alpha", 1.0)

    @property
    def keeps(self) -> bool:
        """Whether the method has a term on the retain batch."""
        return "retain" in self.method.module.NEEDS

    def forget(self, model, batch, reference):
        """The method's loss on a forget batch."""
        return self.method.module.loss(model, batch, reference, **self.method.parameters)

    def keep(self, model, batch, reference):
        """The method's own loss on a retain batch."""
        return self.method.module.keep(model, batch, reference, **self.method.parameters)

    def retain(self, model, batch, reference):
        """The regularizer's loss on a retain batch, without alpha."""
        others = {name: value for name, value in self.regularizer.parameters.items() if name != "alpha"}
        return self.regularizer.module.loss(model, batch, reference, **others)
