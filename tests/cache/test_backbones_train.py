"""The training stand-in on a tiny moving-square data set: it learns, repeats itself, and writes what can be loaded."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cache.backbones.load import load_backbone
from cache.backbones.train import ActorClassifier, TrainConfig, scheduled_rate, train_backbone
from cache.backbones.train_clips import Draw, TrainingClips, plan_batches, plan_windows
from cache.backbones.weights import read_weights, weights_digest
from cli.main import root
from stal_data.dataset import Dataset, Split
from stal_data.errors import InputError, NotFoundError, StalError
from stal_data.preprocess import preprocess_clip

LABELS = """
label { name: "still" label_id: 1 label_type: PERSON_MOVEMENT }
label { name: "move" label_id: 2 label_type: PERSON_MOVEMENT }
label { name: "watch" label_id: 3 label_type: PERSON_INTERACTION }
"""
HEIGHT, WIDTH, FRAMES, VIDEOS = 32, 48, 64, 6


def write_dataset(folder: Path) -> Path:
    """Write videos of one second: a square on the left and one on the right, one of which trembles sideways.

    The trembling one is labelled move, the other still; both squares look the same in any single frame.
    """
    rng = np.random.default_rng(0)
    rows = []
    for video in range(VIDEOS):
        name, mover = f"v{video}", video % 2
        (folder / "frames" / name).mkdir(parents=True)
        background = rng.integers(0, 80, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for frame in range(FRAMES):
            picture = background.copy()
            for side in range(2):
                shift = 3 * (frame // 4 % 2) if side == mover else 0
                picture[10:22, side * 24 + 5 + shift : side * 24 + 15 + shift] = 220
            Image.fromarray(picture).save(folder / "frames" / name / f"{name}_{frame + 1:06d}.png")
        for side in range(2):
            box = [(side * 24 + 3) / WIDTH, 8 / HEIGHT, (side * 24 + 20) / WIDTH, 24 / HEIGHT]
            label = 1 if side == mover else 0
            rows.append([name, 1, *(f"{value:.6f}" for value in box), label, side, 1, FRAMES + 1, 1.28, 0, 0])
    (folder / "train.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    (folder / "labels.pbtxt").write_text(LABELS)
    (folder / "dataset.yaml").write_text(
        "name: squares\nformat: chaotic_world\nlabel_map: labels.pbtxt\n"
        "media: {kind: frames, root: frames}\nsplits: {train: {annotations: train.csv}}\n"
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def split(folder) -> Split:
    return Dataset.open(folder).split("train")


def config(kind="slowfast", **changes) -> TrainConfig:
    values = {"kind": kind, "preset": "tiny", "label_types": ("PERSON_MOVEMENT",), "steps": 3, "batch_size": 2}
    return TrainConfig(**(values | changes))


def train(split, cfg, *, threads=1, cache_bytes=2**24, progress=None):
    return train_backbone(
        split, cfg, device=torch.device("cpu"), threads=threads, cache_bytes=cache_bytes, progress=progress
    )


@pytest.mark.parametrize("kind", ["slowfast", "vit"])
def test_the_loss_falls(split, kind):
    losses = []
    trained = train(split, config(kind, steps=60, batch_size=12), progress=lambda report: losses.append(report.loss))
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert not trained.model.training


def test_running_statistics_fit_the_trained_weights(split):
    """In eval mode the frozen backbone puts out what it put out in training: windows around everybody."""
    trained = train(split, config(steps=40, batch_size=48))
    clips = training_clips(split, window=16)
    (batch,) = clips.batches(plan_windows(clips, steps=1, batch_size=96, seed=1), 1)
    with torch.no_grad():
        frozen = trained.model.eval()(batch.clips_B3THW)["slow"]
        live = trained.model.train()(batch.clips_B3THW)["slow"]
    # Two random draws of windows differ by a tenth; statistics that lag behind the weights by far more.
    assert (frozen - live).abs().mean() < 0.2 * live.abs().mean()


def test_training_repeats_itself_whatever_decodes(split):
    first = train(split, config(seed=3))
    digests = {
        weights_digest(train(split, config(seed=3), threads=threads, cache_bytes=cache).model.state_dict())
        for threads, cache in itertools.product((1, 4), (0, 2**24))
    }
    assert digests == {weights_digest(first.model.state_dict())}
    assert weights_digest(train(split, config(seed=4)).model.state_dict()) not in digests


def training_clips(split, **changes) -> TrainingClips:
    values = {"label_types": ("PERSON_MOVEMENT",), "height": HEIGHT, "width": WIDTH, "cache_bytes": 2**24}
    return TrainingClips(split, **(values | changes))


def test_a_batch_is_what_the_backbone_will_see_later(split):
    clips = training_clips(split, height=20, width=30)
    (batch,) = clips.batches([[Draw(index=2, flip=False), Draw(index=2, flip=True)]], 2)
    item = split.key_frames[2]
    frames = split.media.read(item.key.video, list(range(1, FRAMES + 1, 2)))
    expected = torch.from_numpy(preprocess_clip(frames, 20, 30))
    assert torch.equal(batch.clips_B3THW[0], expected)
    assert torch.equal(batch.clips_B3THW[1], expected.flip(-1))
    np.testing.assert_array_equal(batch.boxes_N5[:2, 1:], item.boxes_N4)
    assert batch.boxes_N5[:, 0].tolist() == [0, 0, 1, 1]
    mirrored = batch.boxes_N5[2:, 1:].numpy()
    np.testing.assert_allclose(mirrored[:, [0, 2]], 1 - item.boxes_N4[:, [2, 0]], atol=1e-6)
    np.testing.assert_array_equal(mirrored[:, [1, 3]], item.boxes_N4[:, [1, 3]])


def test_a_window_is_cut_around_its_person(split):
    clips = training_clips(split, window=16)
    draws = [Draw(index=1, flip=flip, person=1, shift=(2, -3)) for flip in (False, True)]
    (batch,) = clips.batches([draws], 1)
    item = split.key_frames[1]
    frames = split.media.read(item.key.video, list(range(1, FRAMES + 1, 2)))
    clip_3THW = torch.from_numpy(preprocess_clip(frames, HEIGHT, WIDTH))
    # Person 1 stands at x 27..44 and y 8..24: a window of 16 around the middle starts at (27, 8), shifted (24, 10).
    assert torch.equal(batch.clips_B3THW[0], clip_3THW[:, :, 10:26, 24:40])
    assert torch.equal(batch.clips_B3THW[1], clip_3THW[:, :, 10:26, 24:40].flip(-1))
    np.testing.assert_allclose(batch.boxes_N5[0], [0, 3 / 16, 0, 1, 14 / 16], atol=1e-5)
    np.testing.assert_allclose(batch.boxes_N5[1], [1, 0, 0, 13 / 16, 14 / 16], atol=1e-5)
    assert torch.equal(batch.targets_NL, torch.from_numpy(clips.people()[1][[3, 3]]))


def test_windows_stay_inside_the_frame(split):
    clips = training_clips(split, window=16)
    for shift in ((-99, -99), (99, 99)):
        (batch,) = clips.batches([[Draw(index=0, flip=False, person=0, shift=shift)]], 1)
        assert batch.clips_B3THW.shape == (1, 3, FRAMES // 2, 16, 16)
        assert 0 <= batch.boxes_N5[:, 1:].min() <= batch.boxes_N5[:, 1:].max() <= 1


def test_rare_labels_are_drawn_more_often_than_they_occur(folder, tmp_path):
    copy = tmp_path / "data"
    copy.mkdir()
    for name in ("dataset.yaml", "labels.pbtxt"):
        (copy / name).write_text((folder / name).read_text())
    (copy / "frames").symlink_to(folder / "frames")
    rows = [line.split(",") for line in (folder / "train.csv").read_text().splitlines()]
    for row in rows[1:]:
        row[6] = "0"  # only the first person moves
    rows[0][6] = "1"
    (copy / "train.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    clips = training_clips(Dataset.open(copy).split("train"), window=16)
    plan = plan_windows(clips, steps=200, batch_size=10, seed=0)
    drawn = [draw for draws in plan for draw in draws]
    assert len(drawn) == 2000
    pairs, targets = clips.people()
    (rare,) = (tuple(pair) for pair, target in zip(pairs.tolist(), targets, strict=True) if target[1])
    share = sum((draw.index, draw.person) == rare for draw in drawn) / len(drawn)
    expected = 1 / (1 + 11 / 11**0.5)  # of weights 1 and, eleven times, 1/sqrt(11)
    assert share == pytest.approx(expected, abs=0.04)


def test_people_without_a_chosen_label_are_negatives(folder, tmp_path):
    lines = (folder / "train.csv").read_text().splitlines()
    cells = lines[0].split(",")
    cells[6] = "2"  # watch: an interaction
    copy = tmp_path / "data"
    copy.mkdir()
    for name in ("dataset.yaml", "labels.pbtxt"):
        (copy / name).write_text((folder / name).read_text())
    (copy / "frames").symlink_to(folder / "frames")
    (copy / "train.csv").write_text("\n".join([",".join(cells), *lines[1:]]) + "\n")
    clips = training_clips(Dataset.open(copy).split("train"))
    counts, people = clips.label_counts()
    assert clips.label_ids == (1, 2)
    assert people == 2 * VIDEOS
    assert counts.sum() == people - 1


def test_an_epoch_shows_every_clip_once():
    plan = plan_batches(10, steps=5, batch_size=4, seed=0)
    shown = [draw.index for draws in plan for draw in draws]
    assert [len(draws) for draws in plan] == [4] * 5
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))
    assert {draw.flip for draws in plan for draw in draws} == {True, False}


def test_learning_rate_rises_then_falls_to_zero():
    cfg = config(steps=100, learning_rate=0.1)
    rates = [scheduled_rate(cfg, step) for step in range(1, 101)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(0.1, rel=0.01)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4


def test_classifier_reads_the_map_inside_the_box():
    """A map that is bright in its right half only: a box there sees it, one on the left does not."""

    class RightHalf(torch.nn.Module):
        def forward(self, clips_B3THW):
            map_BCTHW = torch.zeros(len(clips_B3THW), 1, 2, 8, 12)
            map_BCTHW[..., 7:] = 1
            return {"map": map_BCTHW}

    model = ActorClassifier(RightHalf(), channels=1, num_labels=1).eval()
    torch.nn.init.ones_(model.linear.weight)
    boxes = torch.tensor([[0, 0.7, 0.2, 0.95, 0.8], [0, 0.05, 0.2, 0.3, 0.8]])
    left_right = model(torch.zeros(1, 3, 2, 4, 4), boxes)
    assert left_right[0] > 0.9
    assert left_right[1] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_settings_name_the_field(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_an_unknown_label_type_is_answered_with_the_closest(split):
    with pytest.raises(InputError, match=r"'PERSON_MOVMENT'.*Did you mean 'PERSON_MOVEMENT'"):
        train(split, config(label_types=("PERSON_MOVMENT",)))
    with pytest.raises(NotFoundError, match="no slowfast preset 'huge'"):
        train(split, config(preset="huge"))


def test_a_missing_frame_stops_the_training_and_is_named(folder, tmp_path):
    copy = write_dataset(tmp_path / "data")
    (copy / "frames" / "v3" / "v3_000031.png").unlink()
    with pytest.raises(StalError, match="v3"):
        train(Dataset.open(copy).split("train"), config(steps=6))


def test_command_writes_a_file_that_loads(folder, tmp_path):
    output = tmp_path / "out" / "w.safetensors"
    arguments = ["backbone", "train", str(folder), "--kind", "vit", "--preset", "tiny", "--steps", "2"]
    result = CliRunner().invoke(root, [*arguments, "--batch-size", "2", "--device", "cpu", "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "step 2/2 loss" in result.stderr
    loaded = load_backbone("vit", weights=str(output))
    assert loaded.spec.trained
    assert loaded.spec.preset == "tiny"
    assert loaded.spec.weights.removeprefix("sha256:")[:16] in result.stdout
    assert read_weights(output).metadata["kind"] == "vit"


def test_command_refuses_another_suffix_before_training(folder, tmp_path):
    arguments = ["backbone", "train", str(folder), "--kind", "vit", "--steps", "2"]
    result = CliRunner().invoke(root, [*arguments, "--output", str(tmp_path / "w.pt")])
    assert result.exit_code == 2
    assert ".safetensors" in result.stderr
