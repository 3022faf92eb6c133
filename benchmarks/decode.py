"""Clips a second that precompute decodes and resizes, by source, size and threads, beside what ffmpeg decodes.

A source has a key frame each second; a clip is 32 frames of 224x224 around it. Clips share frames, as in a data set.
Videos are made by libx264 with a key picture every 10 s; frame folders hold the same pictures. The last column is how
many seconds of the video `ffmpeg -i VIDEO -f null -` decodes in one, where it is installed: there is a clip a second.

    python -m benchmarks.decode --seconds 40 --size 1280x720 --threads 1 --threads 2 --threads 8
"""

import argparse
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from PIL import Image

from cache.precompute.clips import ClipReader, read_ahead
from cache.precompute.plan import Clip
from stal_data.media import Media
from stal_data.media.frames import FrameFolders
from stal_data.media.video import VideoFiles

FPS, NUM_FRAMES, STRIDE, BATCH = 25, 32, 2, 8
T = TypeVar("T")


def pictures(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """Noise that moves, so that the decoder has work to do, and a moving bar."""
    noise = np.random.default_rng(0).integers(0, 255, (height, 2 * width, 3), dtype=np.uint8)
    smooth = (noise.astype(np.uint16) + np.roll(noise, 1, 1) + np.roll(noise, 1, 0) + np.roll(noise, 2, 1)) // 4
    for number in range(count):
        picture = smooth.astype(np.uint8)[:, (3 * number) % width :][:, :width].copy()
        picture[:, (7 * number) % width :][:, :40] = 255
        yield picture


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while some := list(islice(iterator, count)):
        yield some


def write_video(path: Path, width: int, height: int, seconds: int) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"g": "250", "preset": "veryfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures(width, height, FPS * seconds):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


def write_frames(folder: Path, kind: str, width: int, height: int, seconds: int) -> None:
    folder.mkdir(parents=True)

    def save(numbered: tuple[int, np.ndarray]) -> None:
        number, picture = numbered
        Image.fromarray(picture).save(folder / f"v_{number:06d}.{kind}")

    with ThreadPoolExecutor() as pool:
        for some in batched(enumerate(pictures(width, height, FPS * seconds), start=1), 100):
            list(pool.map(save, some))


def clips_per_s(media: Media, seconds: int, threads: int) -> float:
    span = STRIDE * NUM_FRAMES
    centres = range(span, FPS * seconds - span, FPS)
    clips = {
        row: Clip(video="v", frames=tuple(range(centre - span // 2, centre + span // 2, STRIDE)))
        for row, centre in enumerate(centres)
    }
    reader = ClipReader(media, clips, {(224, 224)})
    batches = [list(clips)[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in read_ahead(((None, rows) for rows in batches), reader, pool):
            pass
    return len(clips) / (time.perf_counter() - start)


def ffmpeg_clips_per_s(path: Path, seconds: int) -> float | None:
    if shutil.which("ffmpeg") is None:
        return None
    start = time.perf_counter()
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), "-f", "null", "-"], check=True)
    return seconds / (time.perf_counter() - start)


@contextmanager
def source(kind: str, width: int, height: int, seconds: int) -> Iterator[tuple[Media, Path]]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if kind == "mp4":
            write_video(root / "v.mp4", width, height, seconds)
            yield VideoFiles({"v": root / "v.mp4"}), root / "v.mp4"
        else:
            write_frames(root / "v", kind, width, height, seconds)
            yield FrameFolders(root, pattern=f"{{video}}/{{video}}_{{frame:06d}}.{kind}"), root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--size", action="append", help="WIDTHxHEIGHT; default 1280x720")
    parser.add_argument("--source", action="append", choices=["mp4", "png", "jpg"], help="default: all")
    parser.add_argument("--threads", type=int, action="append", help="default: 1, 2, 8")
    options = parser.parse_args()
    threads = options.threads or [1, 2, 8]
    print("| source | size | " + " | ".join(f"{count} thread(s)" for count in threads) + " | ffmpeg |")
    print("|---" * (len(threads) + 3) + "|")
    for size in options.size or ["1280x720"]:
        width, height = map(int, size.split("x"))
        for kind in options.source or ["mp4", "png", "jpg"]:
            with source(kind, width, height, options.seconds) as (media, path):
                found = [f"{clips_per_s(media, options.seconds, count):.2f}" for count in threads]
                other = ffmpeg_clips_per_s(path, options.seconds) if kind == "mp4" else None
            print(f"| {kind} | {size} | {' | '.join(found)} | {'' if other is None else f'{other:.2f}'} |", flush=True)
    cores = len(os.sched_getaffinity(0))
    print(f"\nClips a second. {cores} cores, {platform.processor() or platform.machine()}, av {av.__version__}")


if __name__ == "__main__":
    main()
