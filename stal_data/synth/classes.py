"""The classes of style a and how labels combine.

A PERSON_MOVEMENT class is what one person's own pixels show; every person has exactly one. A PERSON_INTERACTION class
depends on others in the scene and comes on top of the movement that the person makes meanwhile: watching + standing,
greeting + waving, chasing + running, fleeing + running.
"""

from stal_data.synth.labels import Classes

MOVEMENTS = ("stand", "walk", "run", "jump", "wave", "crouch", "punch", "bow")
INTERACTIONS = ("watch", "greet", "chase", "flee")
CLASSES = Classes(MOVEMENTS, INTERACTIONS)

# The movement that goes with each interaction.
CARRIER = {"watch": "stand", "greet": "wave", "chase": "run", "flee": "run"}
