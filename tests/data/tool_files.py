"""Scenes as files of annotation tools, each in the form that the tool's documentation gives."""

import json
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, FPS = 80, 48, 25
ACTIONS = ("stand", "walk", "wave")

Person = tuple[int, tuple[int, int, int, int], tuple[str, ...]]
"""Id, box x1,y1,x2,y2 in pixels, and actions."""

Scene = dict[str, dict[int, list[Person]]]
"""By video and second."""

SCENE: Scene = {
    "street": {
        0: [(1, (10, 10, 30, 40), ("walk",)), (2, (50, 6, 60, 30), ("stand", "wave"))],
        1: [(1, (20, 10, 40, 40), ("walk",))],
        2: [],
        3: [(2, (52, 6, 62, 30), ("stand",))],
    },
    "yard": {0: [(7, (0, 0, 80, 48), ("wave",))]},
}


def label_map_text() -> str:
    return "".join(f'label {{ name: "{name}" label_id: {number} }}\n' for number, name in enumerate(ACTIONS, 1))


def write_label_studio(folder: Path, scene: Scene) -> Path:
    """Each person of each second is a region of one frame."""
    tasks = []
    for number, (video, seconds) in enumerate(scene.items(), 1):
        frames = 1 + FPS * max(seconds)
        results = [
            {
                "id": f"r{second}-{person}",
                "type": "videorectangle",
                "from_name": "box",
                "to_name": "video",
                "value": {
                    "framesCount": frames,
                    "duration": frames / FPS,
                    "labels": list(actions),
                    "sequence": [
                        {
                            "frame": FPS * second + 1,
                            "enabled": False,
                            "rotation": 0,
                            "x": 100 * x1 / WIDTH,
                            "y": 100 * y1 / HEIGHT,
                            "width": 100 * (x2 - x1) / WIDTH,
                            "height": 100 * (y2 - y1) / HEIGHT,
                            "time": (FPS * second + 1) / FPS,
                        }
                    ],
                },
            }
            for second, people in seconds.items()
            for person, (x1, y1, x2, y2), actions in people
        ]
        data = {"video": f"/data/upload/3/0a1b2c3d-{video}.mp4"}
        tasks.append({"id": number, "data": data, "annotations": [{"id": 1, "result": results}]})
    path = folder / "project-3.json"
    path.write_text(json.dumps(tasks))
    return path


def write_via(folder: Path, scene: Scene) -> Path:
    """Of key frames without people VIA has nothing."""
    metadata = {}
    for vid, (_, seconds) in enumerate(scene.items(), 1):
        for second, people in seconds.items():
            for person, (x1, y1, x2, y2), actions in people:
                chosen = ",".join(str(ACTIONS.index(name)) for name in actions)
                metadata[f"{vid}_{len(metadata)}"] = {
                    "vid": str(vid),
                    "flg": 0,
                    "z": [float(second)],
                    "xy": [2, x1, y1, x2 - x1, y2 - y1],
                    "av": {"1": chosen, "2": str(person)},
                }
    project = {
        "project": {"pid": "__VIA_PROJECT_ID__", "vid_list": [str(n) for n in range(1, len(scene) + 1)]},
        "config": {},
        "attribute": {
            "1": {"aname": "action", "anchor_id": "FILE1_Z1_XY1", "type": 2, "options": dict(enumerate(ACTIONS))},
            "2": {"aname": "person_id", "anchor_id": "FILE1_Z1_XY1", "type": 1, "options": {}},
        },
        "file": {
            str(n): {"fid": str(n), "fname": f"{video}.mp4", "type": 4, "loc": 1, "src": ""}
            for n, video in enumerate(scene, 1)
        },
        "metadata": metadata,
        "view": {str(n): {"fid_list": [str(n)]} for n in range(1, len(scene) + 1)},
    }
    path = folder / "via_project.json"
    path.write_text(json.dumps(project))
    return path


def write_yolo(folder: Path, scene: Scene) -> Path:
    root = folder / "yolo"
    (root / "labels").mkdir(parents=True)
    (root / "data.yaml").write_text("names:\n" + "".join(f"  {n}: {name}\n" for n, name in enumerate(ACTIONS)))
    for video, seconds in scene.items():
        for second, people in seconds.items():
            lines = [
                f"{ACTIONS.index(name)} {(x1 + x2) / 2 / WIDTH!r} {(y1 + y2) / 2 / HEIGHT!r} {(x2 - x1) / WIDTH!r} "
                f"{(y2 - y1) / HEIGHT!r} {person}"
                for person, (x1, y1, x2, y2), actions in people
                for name in actions
            ]
            (root / "labels" / f"{video}_{FPS * second + 1:06d}.txt").write_text("\n".join(lines))
    return root


def write_tubes(folder: Path, scene: Scene) -> Path:
    """Each person of each second and action is a tube of one frame, as Python 2 pickles it."""
    tubes: dict[str, dict[int, list[object]]] = {}
    for video, seconds in scene.items():
        of_video = tubes.setdefault(f"sports/{video}", defaultdict(list))
        for second, people in seconds.items():
            for _, box, actions in people:
                for name in actions:
                    tube = np.array([[FPS * second + 1, *box]], np.float32)
                    of_video[ACTIONS.index(name)].append(tube)
    content = {
        "labels": list(ACTIONS),
        "gttubes": {video: dict(classes) for video, classes in tubes.items()},
        "nframes": dict.fromkeys(tubes, 125),
        "resolution": dict.fromkeys((*tubes, "street"), (HEIGHT, WIDTH)),
        "train_videos": [[]],
        "test_videos": [list(tubes)],
    }
    path = folder / "multisports_GT.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def write_ava(folder: Path, scene: Scene) -> Path:
    lines = []
    for video, seconds in scene.items():
        for second, people in seconds.items():
            lines += [f"{video},{second:04d}"] if not people else []
            for person, (x1, y1, x2, y2), actions in people:
                box = f"{x1 / WIDTH!r},{y1 / HEIGHT!r},{x2 / WIDTH!r},{y2 / HEIGHT!r}"
                lines += [f"{video},{second:04d},{box},{ACTIONS.index(name) + 1},{person}" for name in actions]
    path = folder / "ava_train.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_coco(folder: Path, scene: Scene) -> Path:
    images, annotations = [], []
    for video, seconds in scene.items():
        for second, people in seconds.items():
            name = f"{video}/{FPS * second + 1:06d}.png"
            images.append({"id": len(images) + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
            annotations += [
                {
                    "id": 1000 * len(images) + 10 * person + number,
                    "image_id": len(images),
                    "category_id": ACTIONS.index(action) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                    "track_id": person,
                }
                for person, (x1, y1, x2, y2), actions in people
                for number, action in enumerate(actions)
            ]
    categories = [{"id": number, "name": name} for number, name in enumerate(ACTIONS, 1)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def write_cvat(folder: Path, scene: Scene) -> Path:
    """Of the first video; each person of each second is a shape, which CVAT writes as a track of one frame."""
    video, seconds = next(iter(scene.items()))
    tracks = []
    for second, people in seconds.items():
        for person, (x1, y1, x2, y2), actions in people:
            ticks = "".join(f'<attribute name="{name}">{str(name in actions).lower()}</attribute>' for name in ACTIONS)
            note = f'<attribute name="note">person {person}</attribute>'
            boxes = (
                f'<box frame="{FPS * second + gone}" outside="{gone}" occluded="0" keyframe="1" xtl="{x1:.2f}" '
                f'ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}" z_order="0">{ticks}{note}</box>'
                for gone in (0, 1)
            )
            tracks.append(f'<track id="{len(tracks)}" label="person" source="manual">{"".join(boxes)}</track>')
    return write_cvat_tracks(folder / f"{video}.xml", "".join(tracks), video=video, size=FPS * max(seconds) + 1)


def write_cvat_tracks(path: Path, tracks: str, *, video: str = "street", size: int = 76, start: int = 0) -> Path:
    attribute = (
        "<attribute><name>{}</name><mutable>True</mutable><input_type>{}</input_type><values>{}</values></attribute>"
    )
    attributes = "".join(attribute.format(name, "checkbox", "false") for name in ACTIONS) + attribute.format(
        "note", "text", ""
    )
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><name>first</name>'
        f"<size>{size}</size><mode>interpolation</mode><start_frame>{start}</start_frame><frame_filter></frame_filter>"
        f"<labels><label><name>person</name><type>rectangle</type><attributes>{attributes}</attributes></label></labels>"
        f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size><source>{video}.mp4</source>"
        f"</task></meta>{tracks}</annotations>\n"
    )
    return path


CVAT_TRACK = '<track id="0" label="person"><box frame="0" outside="0" xtl="1" ytl="1" xbr="5" ybr="5"/></track>'

WRITERS: dict[str, Callable[[Path, Scene], Path]] = {
    "cvat": write_cvat,
    "coco": write_coco,
    "label_studio": write_label_studio,
    "via": write_via,
    "yolo": write_yolo,
    "ava": write_ava,
    "tubes": write_tubes,
}
