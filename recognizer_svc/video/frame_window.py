"""The frames of a video that clips of later key frames may need. No torch here."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame

T = TypeVar("T")
KEPT_FRAMES = 192
"""Three windows: so late may a key frame or a frame come, such as by the time that a detector takes."""


class FrameWindow(Generic[T]):
    """Frames by number, at most KEPT_FRAMES of them."""

    def __init__(self) -> None:
        self._held: dict[int, T] = {}
        self._newest, self._first_needed = 0, 1

    def __len__(self) -> int:
        return len(self._held)

    def values(self) -> Sequence[T]:
        return list(self._held.values())

    def add(self, number: int, make: Callable[[], T]) -> None:
        """Keep a frame, which is made only where a clip may need it. Those that none can need are let go."""
        if number in self._held:
            raise InputError(f"Frame {number} was sent twice; send each frame once.")
        if number <= self._newest - KEPT_FRAMES:
            raise InputError(
                f"Frame {number} was sent after frame {self._newest}; it may be {KEPT_FRAMES - 1} frames late at most. "
                "Send frames in the order of time."
            )
        self._newest = max(self._newest, number)
        self._let_go()
        if number >= self._first_needed:
            self._held[number] = make()

    def clip(self, key: KeyFrame, numbers: Sequence[int]) -> list[T]:
        """Return the frames of a key frame's clip. Key frames come in the order of time."""
        missing = sorted({number for number in numbers if number not in self._held})
        if missing:
            listed = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            raise InputError(
                f"Key frame {key} needs frames {numbers[0]} to {max(numbers)}, of which {listed} "
                f"({len(missing)} in all) are not there. Send a key frame after all frames of its clip, and before any "
                f"that comes {KEPT_FRAMES} frames or more after the first of them."
            )
        self._first_needed = numbers[0]
        found = [self._held[number] for number in numbers]
        self._let_go()
        return found

    def _let_go(self) -> None:
        first = max(self._first_needed, self._newest - KEPT_FRAMES + 1)
        for number in [number for number in self._held if number < first]:
            del self._held[number]
