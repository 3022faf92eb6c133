"""Annotated key frames from a predictions file, for the demo's page and for `infer`."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from stal_data.clips import key_image_frame
from stal_data.dataset import Split
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame

Person = tuple[tuple[float, float, float, float], list[tuple[int, float]]]
"""A box (x1,y1,x2,y2 in [0,1]) and its (label id, score) pairs, best first."""


def read_predictions(path: Path, *, min_score: float) -> dict[KeyFrame, list[Person]]:
    """Read a predictions CSV into people by key frame; actions scored below `min_score` are left out, people are not."""
    import pandas as pd

    columns = ["video", "time", "x1", "y1", "x2", "y2", "label", "score"]
    table = pd.read_csv(path, header=None, names=columns, dtype={"video": str})
    people: dict[KeyFrame, dict[tuple[float, float, float, float], list[tuple[int, float]]]] = defaultdict(dict)
    for row in table.itertuples(index=False):
        actions = people[KeyFrame(row.video, int(row.time))].setdefault((row.x1, row.y1, row.x2, row.y2), [])
        if row.score >= min_score:
            actions.append((int(row.label), float(row.score)))
    return {
        key: [(box, sorted(actions, key=lambda action: -action[1])) for box, actions in boxes.items()]
        for key, boxes in people.items()
    }


def draw_key_frame(
    split: Split,
    frame: AnnotatedKeyFrame,
    people: list[Person],
    folder: Path,
    *,
    scale: int = 1,
    names: dict[int, str] | None = None,
) -> Path:
    """Draw `people` on the key frame's image, enlarged `scale` times; return the PNG's path in `folder`.

    names: label id to text; the split's own label map by default.
    """
    from PIL import Image

    from stal_eval.annotate import draw_actions

    if names is None:
        assert split.label_map is not None
        names = dict(zip(split.label_map.ids, split.label_map.names, strict=True))
    info = split.media.info(frame.key.video)
    image = Image.fromarray(split.media.read(frame.key.video, [key_image_frame(frame, info)])[0])
    if scale != 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    boxes = np.array([box for box, _ in people], dtype=np.float32).reshape(-1, 4)
    captions = ["\n".join(f"{names[label]} {score:.2f}" for label, score in actions[:3]) for _, actions in people]
    drawn = draw_actions(np.asarray(image), boxes, captions)
    path = folder / f"{Path(frame.key.video).name}_{frame.key.timestamp:04d}.png"
    Image.fromarray(drawn).save(path)
    return path
