"""How much people and things hide of the leads, estimated from boxes, to choose a layout by."""

import numpy as np

from stal_data.synth.style_b.places import KEY_FRAMES, Layout

# Half the width of a body, in body heights.
_HALF_WIDTH = 0.17


def hidden(layout: Layout) -> float:
    """The largest part of a lead that others hide at a key frame, and a little of the mean over all people."""
    people, rows = [], [place.row for place in layout.places]
    for place in layout.places:
        x_K, scale = place.x_T[KEY_FRAMES], place.scale
        half, tall = (0.45 * scale, 0.5 * scale) if place.act.fall_T.any() else (_HALF_WIDTH * scale, scale)
        if len(place.unit.acts) == 2:  # the hands count
            x_K = x_K + 0.14 * scale * np.cos(place.heading)
        top, low = (np.full_like(x_K, y) for y in (place.row - tall, place.row))
        people.append(np.stack([x_K - half, top, x_K + half, low], axis=1))
    things = []
    for x, row, scale in layout.obstacles:
        things.append((x - 0.12 * scale, row - scale, x + 0.12 * scale, row))
        rows.append(row)
    for place in layout.places:
        if place.unit.kind == "door":
            left, right = sorted((place.x, place.x - place.step * 0.95 * place.scale))
            things.append((left, place.row - 1.2 * place.scale, right, place.row))
            rows.append(place.row - 0.01)  # in this count, not before its own user
    boxes_PK4 = np.stack(people)
    boxes_NK4 = np.concatenate([boxes_PK4, *(np.tile(thing, (1, len(KEY_FRAMES), 1)) for thing in things)])
    mine, other, rows_N = boxes_PK4[:, None], boxes_NK4[None], np.array(rows)
    sizes = np.minimum(mine[..., 2:], other[..., 2:]) - np.maximum(mine[..., :2], other[..., :2])
    hidden_PNK = np.clip(sizes, 0, None).prod(axis=-1) / (mine[..., 2:] - mine[..., :2]).prod(axis=-1)
    hidden_PNK *= (rows_N > rows_N[: len(people), None])[..., None]
    hidden_P = hidden_PNK.sum(axis=1).max(axis=-1)
    leads_P = np.array([place.unit.lead for place in layout.places])
    return max(float(hidden_P[leads_P].max(initial=0.0)), 0.2) + 0.05 * float(hidden_P.mean())
