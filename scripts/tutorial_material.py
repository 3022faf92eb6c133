"""Make what the tutorial begins with: a folder of videos, and the labels of the people in them as CVAT exports them.

    python scripts/tutorial_material.py OUT [--videos 40] [--seed 3]

OUT/videos/*.mp4, OUT/labels/*.xml, and OUT/new.mp4, a video that nobody has labelled.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

import av

from stal_data.dataset import Dataset, Split
from stal_data.imports.converting import convert
from stal_data.synth.writer import render_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    (options.out / "videos").mkdir(parents=True)
    with TemporaryDirectory(prefix="stal-tutorial-", dir=options.out) as folder:
        data = Path(folder) / "data"
        render_dataset(data, seed=options.seed, train_videos=options.videos, test_videos=1)
        dataset = Dataset.open(data)
        labelled, new = dataset.split("train"), dataset.split("test")
        for video in sorted({item.key.video for item in labelled.key_frames}):
            encode(labelled, video, options.out / "videos" / f"{video}.mp4")
        convert(labelled, "cvat", options.out / "labels")
        encode(new, new.key_frames[0].key.video, options.out / "new.mp4")
    print(f"{options.videos} videos in {options.out / 'videos'}, their labels in {options.out / 'labels'}")


def encode(split: Split, video: str, path: Path) -> None:
    """Write a video's frames as H.264, 25 a second."""
    info = split.media.info(video)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, "yuv420p"
        for number in range(1, info.num_frames + 1):
            picture_HW3 = split.media.read(video, [number])[0]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HW3, format="rgb24")))
        file.mux(stream.encode(None))


if __name__ == "__main__":
    main()
