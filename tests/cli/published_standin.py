"""A folder with every file that docs/reproduction.md starts from, under its published name, of the smallest sizes."""

import csv
import random
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image

from cache.backbones.load import load_backbone
from tests.data.published_pickles import write_pickle
from tests.recognizer.tiny_checkpoint import HEAD, write_checkpoint

# pose_softmax takes the first 13 for poses.
LABELS = [{"name": f"action {number}", "id": number, "label_type": "PERSON_MOVEMENT"} for number in range(1, 15)]
FRAMES = 76
Box = tuple[float, float, float, float]
LEFT: Box = (0.1, 0.2, 0.4, 0.9)
RIGHT: Box = (0.5, 0.1, 0.9, 0.8)
# What the tiny presets and a short training need beside the page's words, by the first words of a command.
SMALLER = {
    ("weights", "import"): ["--slowfast-preset", "tiny", "--vit-preset", "tiny"],
    ("runs", "import"): [
        "--set",
        f"head={{kind: acar, reduce_channels: {HEAD.reduce_channels}, "
        f"context_channels: {HEAD.context_channels}, depth: {HEAD.depth}}}",
    ],
    ("train", "acar-joint"): [
        "--nproc-per-node",
        "1",
        "--set",
        "training.epochs=1",
        "--set",
        "head.reduce_channels=16",
        "--set",
        "head.context_channels=12",
        "--set",
        "head.depth=1",
    ],
}


def write_published_files(folder: Path, frames: Path) -> None:
    videos = {"train": ("TRA1", "TRA2"), "test": ("TST1", "TST2")}
    for number, video in enumerate(video for names in videos.values() for video in names):
        (frames / video).mkdir(parents=True)
        for frame in range(1, FRAMES + 1):
            colour = (40 * number, 3 * frame, 200 - 2 * frame)
            Image.new("RGB", (64, 36), colour).save(frames / video / f"{video}_{frame:06d}.png")
    rows = {split: [row for video in names for row in rows_of(video)] for split, names in videos.items()}
    write_pickle(folder / "cw_data_train1fps_woXGXJVBCQ.pkl", list(map(element, rows["train"][1:])), LABELS)
    write_pickle(folder / "cw_data_test1fps.pkl", list(map(element, rows["test"][1:])), LABELS)
    detected = [element(row) | {"labels": [entry(box, 0, 0) for box in (LEFT, RIGHT)]} for row in rows["test"][1:]]
    write_pickle(folder / "cw_test_yolov8_on_cw_0.3.pkl", detected, LABELS)
    write_csv(
        folder / "chaos_test_t_+1.csv",
        ((video, f"{second:04d}", *box, label + 1, person) for video, second, box, label, person in rows["test"]),
    )
    (folder / "list_action.pbtxt").write_text(
        "".join(f'label {{\n  name: "{label["name"]}"\n  label_id: {label["id"]}\n}}\n' for label in LABELS)
    )
    chance = random.Random(0)
    for name in ("predict_epoch_final.csv", "predict_epoch_gt.csv"):
        write_csv(
            folder / name,
            (
                (video, second, *box, label["id"], f"{chance.random():.3f}")
                for video, second, box, _, _ in rows["test"][1:]
                for label in LABELS
            ),
        )
    write_checkpoint(folder / "SFR50_VITG_ACAR_CWtrain_ckpt_12.pth.tar", num_classes=len(LABELS))
    write_checkpoint(folder / "SFR50-VITG-CW-gt.pth.tar", num_classes=len(LABELS), seed=1)
    torch.save(
        load_backbone("slowfast", weights="random:0", preset="tiny").model.state_dict(),
        folder / "SLOWFAST_R50_K400.pth.tar",
    )
    vit = load_backbone("vit", weights="random:0", preset="tiny").model.state_dict()
    torch.save({"module": vit}, folder / "vit_g_ps14_ak_ft_ckpt_7_clean.pth")


Row = tuple[str, int, Box, int, int]


def rows_of(video: str) -> list[Row]:
    """Video, second, box, label from 0, person. The last row occurs twice, as some published rows do."""
    return [
        (video, 1, LEFT, 0, 1),
        (video, 1, LEFT, 13, 1),
        (video, 1, RIGHT, 4, 2),
        (video, 2, RIGHT, 4, 2),
        (video, 2, RIGHT, 4, 2),
    ]


def entry(box: Box, label: int, person: int) -> dict[str, object]:
    return {"bounding_box": list(box), "label": [label], "person_id": [person]}


def element(row: Row) -> dict[str, object]:
    video, second, box, label, person = row
    middle = 25 * second + 1
    return {
        "video": video,
        "time": second,
        "start_frame": max(1, middle - 37),
        "n_frames": 50,
        "mid_frame": middle,
        "format_str": video + "_%06d.png",
        "frame_rate": 25,
        "labels": [entry(box, label, person)],
    }


def write_csv(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
