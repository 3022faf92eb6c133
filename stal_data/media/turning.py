"""Showing a stored picture upright: the eight ways in which files say that it lies, or stands mirrored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do with stored rows and columns, in this order."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def shown(self, stored_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture as it is to be seen."""
        shown_HW3 = stored_HW3.swapaxes(0, 1) if self.transpose else stored_HW3
        return shown_HW3[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height as shown, from those stored; also the other way round."""
        return (height, width) if self.transpose else (width, height)


_OF_EXIF = {
    2: Turn(flip_columns=True),
    3: Turn(flip_rows=True, flip_columns=True),
    4: Turn(flip_rows=True),
    5: Turn(transpose=True),
    6: Turn(transpose=True, flip_columns=True),
    7: Turn(transpose=True, flip_rows=True, flip_columns=True),
    8: Turn(transpose=True, flip_rows=True),
}


def turn_of_exif(orientation: object) -> Turn:
    """Return the turn that the value of EXIF's tag 0x0112 asks for; any value that it does not define is none."""
    return _OF_EXIF.get(orientation, Turn()) if isinstance(orientation, int) else Turn()


def turn_of_matrix(matrix: Sequence[int]) -> Turn | None:
    """Return the turn that the nine numbers of a video's display matrix ask for; None for a turn by other angles.

    Point (x, y) of the stored picture is shown at (a x + c y, b x + d y); the first numbers are a, b, u, c, d, v.
    A size or a place in the matrix changes nothing, as in ffmpeg.
    """
    a, b, _, c, d, _ = matrix[:6]
    if max(abs(b), abs(c)) * _ONE_DEGREE <= min(abs(a), abs(d)):
        return Turn(flip_rows=d < 0, flip_columns=a < 0)
    if max(abs(a), abs(d)) * _ONE_DEGREE <= min(abs(b), abs(c)):
        return Turn(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    return None


_ONE_DEGREE = 57
"""One over the tangent of one degree: ffmpeg takes that for no angle."""
