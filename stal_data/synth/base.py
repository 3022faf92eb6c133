"""What the videos of every style share: names, random streams, and annotations from the people that are drawn."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from stal_data.synth.clip import HEIGHT, KEY_SECONDS, RATE, WIDTH
from stal_data.synth.labels import Classes

SPLITS = ("train", "test")

SceneT = TypeVar("SceneT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One person with one label at one key frame; box x1,y1,x2,y2 in [0,1]; window as in AnnotatedKeyFrame."""

    video: str
    timestamp: int
    box: tuple[float, float, float, float]
    label_id: int
    person: int
    window: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A person in a key frame: box x1,y1,x2,y2 in pixels (end exclusive), and its classes, the movement first."""

    person_id: int
    box: tuple[int, int, int, int]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Video(ABC, Generic[SceneT]):
    """A planned video. Everything follows from seed, split and number; people, places and backdrop are its own."""

    seed: int
    split: str
    number: int

    classes: ClassVar[Classes]
    entropy: ClassVar[tuple[int, ...]]
    """What sets the random streams of a style apart from those of the others."""

    @property
    def name(self) -> str:
        return f"synthetic_{self.split}_{self.number:04d}"

    def streams(self) -> list[np.random.Generator]:
        """Independent streams for the plan, the backdrop, the windows and the camera's noise."""
        root = np.random.SeedSequence([self.seed, SPLITS.index(self.split), self.number, *self.entropy])
        return [np.random.default_rng(child) for child in root.spawn(4)]

    @abstractmethod
    def plan(self) -> SceneT:
        """Who does what where."""

    @abstractmethod
    def seen(self, scene: SceneT) -> Iterable[list[Seen]]:
        """The people of each key frame, without rendering: boxes come from the drawn figures alone."""

    @abstractmethod
    def frames(self, scene: SceneT) -> Iterator[NDArray[np.uint8]]:
        """The frames in order, RGB [H, W, 3]."""

    def annotations(self, scene: SceneT) -> list[Annotation]:
        """The labels of every key frame."""
        windows, found = self.streams()[2], []
        for timestamp, people in zip(KEY_SECONDS, self.seen(scene), strict=True):
            length = int(windows.integers(64, 91))
            start = timestamp * RATE + 1 - length // 2
            for person in people:
                x1, y1, x2, y2 = person.box
                found += [
                    Annotation(
                        video=self.name,
                        timestamp=timestamp,
                        box=(x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT),
                        label_id=self.classes.label_id(name),
                        person=person.person_id,
                        window=(start, start + length),
                    )
                    for name in person.classes
                ]
        return found
