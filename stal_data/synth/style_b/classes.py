"""The classes of style b.

Every annotated person has exactly one of the eight movements; an interaction comes on top of it. The classes of a pair
in ORDER_PAIRS are one another played backwards.
"""

from stal_data.synth.labels import Classes

MOVEMENTS = ("stand", "walk", "sit", "sit_down", "stand_up", "enter", "leave", "fall")
INTERACTIONS = ("wave", "give", "take", "shake_hands")
CLASSES = Classes(MOVEMENTS, INTERACTIONS)

ORDER_PAIRS = (("sit_down", "stand_up"), ("enter", "leave"), ("give", "take"))
RARE = ("fall", "shake_hands")

BACKWARDS = {name: other for pair in ORDER_PAIRS for name, other in (pair, pair[::-1])}
