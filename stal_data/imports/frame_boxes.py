"""Boxes of detectors on numbered frames, as boxes of key frames: COCO's JSON of results and MOT's text files."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, RootModel

from stal_data.csv_lines import read_csv
from stal_data.dataset import Split
from stal_data.errors import InputError
from stal_data.formats.detections import Scored, ScoredBox
from stal_data.formats.fields import BadFieldError, integer, number
from stal_data.formats.sources import Foreign, Source
from stal_data.formats.tracks import Box, numbered_image
from stal_data.imports.media import id_of
from stal_data.imports.sampling import nearest_frame
from stal_data.keyframes import KeyFrame

LARGEST_TRACK = 2**31 - 1
MOT_COLUMNS = (9, 10)
"""Of ground truth, and of detections and results; AVA's person boxes have fewer."""


class FrameBox(NamedTuple):
    """frame: from 0. box: x1,y1,x2,y2 in pixels. size: (width, height) of the picture, None: that of the video.

    score: in [0,1], NaN where unknown. track: as the file counts, from 0 or 1; -1 where unknown.
    """

    video: str
    frame: int
    box: Box
    size: tuple[int, int] | None
    score: float
    track: int


class _Image(Foreign):
    id: int | str
    file_name: str
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class _Images(Foreign):
    images: list[_Image]


class _Result(Foreign):
    image_id: int | str
    category_id: int
    bbox: Box
    score: float = Field(ge=0, le=1)
    track_id: int = Field(default=-1, ge=-1, le=LARGEST_TRACK)


class _Results(RootModel[list[_Result]]):
    pass


def coco_results(source: Source, images: Path | None, *, category: int, first_frame: int) -> Iterator[FrameBox]:
    """Yield the results of one category.

    images: COCO file with the images of the ids; without it, an id must be the name of an image file.
    first_frame: number of a video's first image in the names of files.
    """
    known = {} if images is None else {item.id: item for item in Source(images).model(_Images).images}
    for place, item in enumerate(source.model(_Results).root):
        if item.category_id != category:
            continue
        where, image = f"{source.path}, [{place}]", known.get(item.image_id)
        if image is None and (images is not None or not isinstance(item.image_id, str)):
            rule = f"no image of {images}" if images else "no file name: give the COCO file of the images, --images"
            raise InputError(f"{where}: image_id is {item.image_id!r}, which is {rule}.")
        video, frame = numbered_image(image.file_name if image else str(item.image_id), first_frame, where)
        size = (image.width, image.height) if image else None
        yield FrameBox(video, frame, _corners(where, *item.bbox), size, item.score, item.track_id)


def mot_boxes(source: Source) -> Iterator[FrameBox]:
    """Yield the boxes of VIDEO.txt, or of all such files of a folder; frames count from 1, confidence -1 is unknown."""
    for path in sorted(source.path.glob("*.txt")) if source.kind == "folder" else [source.path]:
        for line, fields in read_csv(path):
            where = f"{path}, line {line}"
            if len(fields) not in MOT_COLUMNS:
                raise InputError(f"{where} has {len(fields)} columns, but MOT has 9 or 10: frame,id,x,y,w,h,conf,...")
            try:
                frame = integer("the frame", fields[0])
                track = integer("the id", fields[1])
                *sides, score = (number("a number of the box", text) for text in fields[2:7])
            except BadFieldError as error:
                raise InputError(f"{where}: {error}") from None
            if frame < 1 or not (0 <= score <= 1 or score == -1):
                raise InputError(
                    f"{where}: the frame is {frame} and the confidence {score:g}, but frames count from 1, and the "
                    "confidence must be in [0,1], or -1 where it is unknown."
                )
            if not -1 <= track <= LARGEST_TRACK:
                raise InputError(f"{where}: the id is {track}, but must be from 0 to {LARGEST_TRACK}, or -1.")
            known = math.nan if score < 0 else score
            yield FrameBox(path.stem, frame - 1, _corners(where, *sides), None, known, track)


def is_mot(source: Source) -> bool:
    """Whether it is a folder, or text whose first line has the columns of MOT."""
    if source.kind != "text":
        return source.kind == "folder"
    return len(next(read_csv(source.path), (0, []))[1]) in MOT_COLUMNS


def at_key_frames(found: Iterable[FrameBox], split: Split) -> tuple[list[Scored], int]:
    """Return the boxes on the frames nearest to key frames, excluded ones too, and how many boxes are on others.

    Boxes become shares of the picture and are cut at its edge; those beyond it count among the others. Track ids of a
    file that counts from 0 become one larger.
    """
    keys: dict[tuple[str, int], list[KeyFrame]] = defaultdict(list)
    for key in sorted({item.key for item in split.key_frames} | split.exclusions):
        info = split.media.info(key.video)
        keys[key.video, nearest_frame(key.time_ms - round(1000 * info.start_s), info.rate)].append(key)
    scored: dict[KeyFrame, list[ScoredBox]] = defaultdict(list)
    elsewhere, boxes = 0, list(found)
    first = int(any(item.track == 0 for item in boxes))
    for item in boxes:
        video, kept = id_of(item.video), False
        track = item.track + first if item.track >= 0 else -1
        for key in keys.get((video, item.frame), ()):
            info = split.media.info(video)
            width, height = item.size or (info.width, info.height)
            x1, y1, x2, y2 = (np.array(item.box) / (width, height, width, height)).clip(0, 1).tolist()
            if kept := x1 < x2 and y1 < y2:
                scored[key].append(ScoredBox((x1, y1, x2, y2), item.score, track))
        elsewhere += not kept
    return list(scored.items()), elsewhere


def _corners(where: str, x: float, y: float, width: float, height: float) -> Box:
    if width < 0 or height < 0:
        raise InputError(f"{where}: width and height are {width:g} and {height:g}: the box must be x,y,width,height.")
    return x, y, x + width, y + height
