"""Boxes over a picture as SVG, each with a badge that covers no other badge. Coordinates are pixels of the picture."""

from html import escape

from stal_eval.examples import Box

_BADGE_SHARE = 1 / 13  # of the picture's height
Area = tuple[float, float, float, float]  # x1,y1,x2,y2


class Drawing:
    """Collects boxes; the first ones lie at the bottom."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._size = height * _BADGE_SHARE
        self._places: list[Area] = []
        self._edges: list[str] = []
        self._badges: list[str] = []

    def add(self, box: Box, badge: str, kind: str, *, at_top: bool) -> None:
        """box: x1,y1,x2,y2 in [0,1]. kind: chooses the style. at_top: at which end of the box the badge stands."""
        x1, y1, x2, y2 = box[0] * self._width, box[1] * self._height, box[2] * self._width, box[3] * self._height
        shape = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
        left, top, right, bottom = area = self._place((x1, y1, x2, y2), len(badge), at_top)
        self._places.append(area)
        back = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        text = f'x="{(left + right) / 2:.1f}" y="{top + 0.8 * self._size:.1f}" font-size="{0.85 * self._size:.1f}"'
        self._edges.append(f'<g class="box o-{kind}"><rect class="casing" {shape}/><rect class="edge" {shape}/></g>')
        self._badges.append(
            f'<g class="box o-{kind}"><rect class="badge" {back}/><text {text}>{escape(badge)}</text></g>'
        )

    def svg(self) -> str:
        """Return all boxes, and over them all badges."""
        return "".join(self._edges + self._badges)

    def _place(self, box: Area, length: int, at_top: bool) -> Area:
        """Return the first free place along the box's edge, then in the rows further inside; else the first place."""
        size = self._size
        width = size * (0.5 + 0.6 * length)  # half a character more than the text needs
        rows = max(1, int((box[3] - box[1]) / size))
        columns = max(1, int((box[2] - box[0]) / width))
        places = []
        for row in range(rows):
            y = box[1] + row * size if at_top else box[3] - (row + 1) * size
            for column in range(columns):
                x = min(max(box[0] + column * width, 0), self._width - width)
                y = min(max(y, 0), self._height - size)
                places.append((x, y, x + width, y + size))
        return next((place for place in places if not any(_overlap(place, other) for other in self._places)), places[0])


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
