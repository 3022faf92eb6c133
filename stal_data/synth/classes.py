"""The classes of the synthetic data set and how labels combine.

A PERSON_MOVEMENT class is what one person's own pixels show; every person has exactly one. A PERSON_INTERACTION class
depends on others in the scene and comes on top of the movement that the person makes meanwhile: watching + standing,
greeting + waving, chasing + running, fleeing + running.
"""

MOVEMENTS = ("stand", "walk", "run", "jump", "wave", "crouch", "punch", "bow")
INTERACTIONS = ("watch", "greet", "chase", "flee")
CLASS_NAMES = MOVEMENTS + INTERACTIONS

# The movement that goes with each interaction.
CARRIER = {"watch": "stand", "greet": "wave", "chase": "run", "flee": "run"}


def class_id(name: str) -> int:
    """Label id (from 1) of a class, as in the label map."""
    return CLASS_NAMES.index(name) + 1


def label_map_text() -> str:
    """The label map in Chaotic World's text format."""
    blocks = []
    for name in CLASS_NAMES:
        kind = "PERSON_MOVEMENT" if name in MOVEMENTS else "PERSON_INTERACTION"
        blocks.append(f'label {{\n  name: "{name}"\n  label_id: {class_id(name)}\n  label_type: {kind}\n}}\n')
    return "".join(blocks)
