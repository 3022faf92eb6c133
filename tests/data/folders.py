"""A small data set in Chaotic World's layout: two splits of one 3-second video each."""

from pathlib import Path

from PIL import Image

from tests.data.videos import numbered_picture

DATASET_YAML = """\
name: small
format: chaotic_world
label_map: labels.pbtxt
media:
  kind: frames
  root: frames
splits:
  train:
    annotations: train.csv
  test:
    annotations: test.csv
    exclusions: excluded.csv
"""
LABELS = "".join(f'label {{ name: "{name}" label_id: {i} }}\n' for i, name in enumerate(("stand", "walk", "wave"), 1))


def rows_of(video: str) -> list[str]:
    """Return rows of key frames 1 and 2: one person doing two things, another doing one."""
    return [
        f"{video},{second},{box},{label},{person},{first},{first + 50},{second}.0,0,0"
        for second, first in ((1, 1), (2, 26))
        for box, label, person in (("0.1,0.2,0.3,0.4", 0, 1), ("0.1,0.2,0.3,0.4", 2, 1), ("0.5,0.2,0.7,0.6", 1, 2))
    ]


def write_small_dataset(root: Path) -> Path:
    for video in ("a", "b"):
        (root / "frames" / video).mkdir(parents=True)
        for number in range(1, 76):
            Image.fromarray(numbered_picture(number)).save(root / "frames" / video / f"{video}_{number:06d}.png")
    (root / "dataset.yaml").write_text(DATASET_YAML)
    (root / "labels.pbtxt").write_text(LABELS)
    (root / "train.csv").write_text("\n".join(rows_of("a")) + "\n")
    (root / "test.csv").write_text("\n".join(rows_of("b")) + "\n")
    (root / "excluded.csv").write_text("")
    return root
