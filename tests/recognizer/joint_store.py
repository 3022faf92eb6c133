"""A data set of noise on disk, and a store with its ViT features alone: what joint training starts from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cache.backbones.load import load_backbone
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.recipe import parse_recipe
from stal_data.dataset import Dataset

VIT_WEIGHTS = "random:5"
SECONDS = 3
DATASET_YAML = """\
name: noise
format: chaotic_world
label_map: labels.pbtxt
media: {kind: frames, root: frames}
splits:
  train: {annotations: train.csv}
  test: {annotations: test.csv}
"""
JOINT = """
name: joint
data: {dataset: noise, folder: sets/noise}
validation: {split: test, keep_best: false}
head: {kind: acar, reduce_channels: 16, context_channels: 12, depth: 1, dropout: 0}
loss: {kind: sigmoid}
optimizer: {kind: sgd, learning_rate: 0.02}
schedule: {kind: steps}
training: {epochs: 2, batch_clips: 4, backbone: slowfast, backbone_weights: "random:3", backbone_preset: tiny}
"""


@dataclass(frozen=True)
class JointStore:
    """data_root: holds the data set in the folder sets/noise."""

    store: Store
    data_root: Path

    @property
    def dataset(self) -> Path:
        return self.data_root / "sets" / "noise"

    def run(self, run_id: str, *overrides: str) -> RunDir:
        """Make a run's folder with its recipe."""
        run_dir = RunDir(self.store.runs_dir / run_id)
        run_dir.root.mkdir(parents=True, exist_ok=True)
        run_dir.recipe.write_text(parse_recipe(JOINT, overrides).to_yaml())
        return run_dir


def write_dataset(root: Path) -> None:
    """Three videos to train on and one to test on, three key frames each, one to three people in each."""
    random = np.random.default_rng(0)
    for split, videos in (("train", ("a", "b", "c")), ("test", ("d",))):
        rows = []
        for video in videos:
            folder = root / "frames" / video
            folder.mkdir(parents=True)
            for number in range(1, 101):
                # Coarse noise, which survives the scaling to each backbone's input.
                pixels_HW3 = random.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
                Image.fromarray(pixels_HW3).save(folder / f"{video}_{number:06d}.png", compress_level=1)
            for second in range(SECONDS):
                # The last window is shorter than a clip, so its frames repeat.
                start, end = 1 + 15 * second, (101, 91, 81)[second]
                for person in range(1 + (second + len(rows)) % 3):
                    x, y = random.uniform(0, 0.5, 2)
                    w, h = random.uniform(0.2, 0.45, 2)
                    box = f"{x:.3f},{y:.3f},{x + w:.3f},{y + h:.3f}"
                    label = random.integers(0, 4)
                    rows.append(f"{video},{second},{box},{label},{person},{start},{end},{second}.0,0,0")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    labels = ("stand", "walk", "wave", "fall")
    text = "".join(f'label {{ name: "{name}" label_id: {number} }}\n' for number, name in enumerate(labels, 1))
    (root / "labels.pbtxt").write_text(text)
    (root / "dataset.yaml").write_text(DATASET_YAML)


def make_joint_store(folder: Path) -> JointStore:
    """ViT features in float32, so that only the order of sums is between them and a live ViT."""
    made = JointStore(store=Store.open(folder / "store", create=True), data_root=folder / "data")
    made.dataset.mkdir(parents=True)
    write_dataset(made.dataset)
    vit = load_backbone("vit", weights=VIT_WEIGHTS, preset="tiny")
    dataset = Dataset.open(made.dataset)
    for split, views in (("train", ("identity", "hflip")), ("test", ("identity",))):
        precompute(
            dataset.split(split),
            made.store,
            PrecomputeOptions(backbones=[vit], views=views, dtype="float32", decode_threads=1),
        )
    return made
