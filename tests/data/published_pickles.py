"""Pickles as the published scripts write them: an element a CSV row, without the first row."""

import pickle
from pathlib import Path

LABELS = [
    {"name": name, "id": number, "label_type": "PERSON_MOVEMENT"}
    for number, name in enumerate(("stand", "walk", "wave"), start=1)
]

ROWS = (
    # video, mid frame, box, label from 0, person, frame_start, frame_end, seconds
    ("b", 26, (0.1, 0.2, 0.3, 0.4), 0, 1, 1, 76, 1.04),
    ("b", 26, (0.1, 0.2, 0.3, 0.4), 2, 1, 1, 76, 1.04),
    ("b", 26, (0.5, 0.2, 0.7, 0.6), 1, 2, 1, 76, 1.04),
    ("b", 51, (0.5, 0.2, 0.7, 0.6), 1, 2, 26, 76, 2.0),
    ("b", 51, (0.5, 0.2, 0.7, 0.6), 1, 2, 26, 76, 2.0),
    ("a", 51, (1 / 3, 0.25, 0.9, 1.0), 0, 7, 26, 76, 2.0),
)


def element(video: str, mid_frame: int, start: int, end: int, seconds: float, labels: list[dict]) -> dict:
    return {
        "video": video,
        "time": int(seconds),
        "start_frame": start,
        "n_frames": end - start,
        "mid_frame": mid_frame,
        "format_str": video + "_%06d.png",
        "frame_rate": 25,
        "labels": labels,
    }


def annotation_elements() -> list[dict]:
    """Of all rows but the first."""
    return [
        element(video, mid, start, end, time, [{"bounding_box": list(box), "label": [label], "person_id": [person]}])
        for video, mid, box, label, person, start, end, time in ROWS[1:]
    ]


def detection_elements(boxes: dict[tuple[str, int], list[tuple[float, ...]]]) -> list[dict]:
    """boxes: by video and second; each row repeats all boxes of its key frame."""
    return [
        element(
            *(video, mid, start, end, time),
            [{"bounding_box": list(box), "label": [0], "person_id": [0]} for box in boxes[video, int(time)]],
        )
        for video, mid, _, _, _, start, end, time in ROWS[1:]
    ]


def write_csv(path: Path) -> Path:
    lines = (
        f"{video},{mid},{','.join(map(repr, box))},{label},{person},{start},{end},{time},0,0\n"
        for video, mid, box, label, person, start, end, time in ROWS
    )
    path.write_text("".join(lines))
    return path


def write_pickle(path: Path, elements: object, labels: object = LABELS, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps([elements, labels], protocol=protocol))
    return path
