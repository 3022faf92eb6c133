"""Writes a split in the format of an annotation tool."""

from collections import Counter
from pathlib import Path

from stal_data.amounts import amount
from stal_data.csv_lines import write_csv
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError
from stal_data.files import write_together
from stal_data.formats.ava import ava_rows
from stal_data.formats.coco import coco_json
from stal_data.formats.cvat_writer import cvat_xml
from stal_data.formats.label_studio_writer import label_studio_json
from stal_data.formats.tracks import PersonBox, VideoAnnotations
from stal_data.imports.sampling import nearest_frame


def convert(split: Split, to: str, output: Path, *, model_version: str | None = None) -> list[str]:
    """Write the key frames of a split, without excluded ones; return what the format cannot hold, as sentences.

    to: ava, coco, cvat or label_studio. output: a file; of CVAT a folder, with a file for each video.
    model_version: of what the people were predicted with, for Label Studio; None where they are annotations.
    ConflictError where the output exists: somebody may have corrected it.
    """
    if output.exists():
        raise ConflictError(f"The output '{output}' exists and is not replaced: remove it, or choose another --output.")
    label_map = split.label_map
    if not split.annotated or label_map is None:
        raise InputError(f"Split '{split.name}' has no annotations, so there is nothing to write.")
    if to == "ava":
        write_csv(output, ava_rows(split.key_frames))
        return []
    videos = _videos(split, {label.id: label.name for label in label_map.labels})
    people = [person for video in videos for found in video.images.values() for person in found]
    if to == "cvat":
        write_together({output / f"{video.name}.xml": cvat_xml(video, label_map.names) for video in videos})
        unknown = sum(person.person < 0 for person in people)
        return [f"{amount(unknown, 'box')} of unknown people written as tracks of one frame each."] if unknown else []
    if to == "label_studio":
        infos = {video.name: split.media.info(video.name) for video in videos}
        frames = {name: round(info.duration_s * info.rate) for name, info in infos.items()}
        write_together({output: label_studio_json(videos, frames, model_version=model_version)})
        return ["A person whose actions change is several regions, each with an id of its own when it is imported."]
    write_together({output: coco_json(videos, label_map)})
    without = sum(not person.actions for person in people)
    return [f"{without} people without an action are left out, since COCO has no box without one."] if without else []


def _videos(split: Split, names: dict[int, str]) -> list[VideoAnnotations]:
    found: dict[str, VideoAnnotations] = {}
    frames: Counter[tuple[str, int]] = Counter()
    for item in split.key_frames:
        video, info = item.key.video, split.media.info(item.key.video)
        if video not in found:
            found[video] = VideoAnnotations(
                name=video, fps=info.rate, size=(info.width, info.height), pixels=False, images={}
            )
        frame = nearest_frame(item.key.time_ms - round(1000 * info.start_s), info.rate)
        frames[video, frame] += 1
        if frame < 0 or frames[video, frame] > 1:
            raise InputError(f"Key frame {item.key} has no frame of its own at {float(info.rate):g} frames a second.")
        people = zip(item.boxes_N4.astype(float).tolist(), item.labels, item.persons, strict=True)
        found[video].images[frame] = [  # type: ignore[index]
            PersonBox(person, (box[0], box[1], box[2], box[3]), tuple(names[label] for label in sorted(labels)))
            for box, labels, person in people
        ]
    return list(found.values())
