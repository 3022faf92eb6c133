"""The classes of a style as a label map."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Classes:
    """Every annotated person has exactly one of the movements at a key frame; interactions come on top of it."""

    movements: tuple[str, ...]
    interactions: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All classes in the order of their label ids."""
        return self.movements + self.interactions

    def label_id(self, name: str) -> int:
        """Label id (from 1) of a class, as in the label map."""
        return self.names.index(name) + 1

    def label_map_text(self) -> str:
        """The label map in Chaotic World's text format."""
        blocks = []
        for name in self.names:
            kind = "PERSON_MOVEMENT" if name in self.movements else "PERSON_INTERACTION"
            block = f'label {{\n  name: "{name}"\n  label_id: {self.label_id(name)}\n  label_type: {kind}\n}}\n'
            blocks.append(block)
        return "".join(blocks)
