"""Whole videos of the training split that are scored and not trained on. Needs no torch."""

from dataclasses import replace

from cache.split_store import PublishedSplit
from recognizer_svc.training.seeds import seed_of
from stal_data.errors import InputError

_SHOWN = 5


def divide(split: PublishedSplit, fraction: float) -> tuple[PublishedSplit, PublishedSplit]:
    """Return the part of a split to train on, and the part that is held out; no video is in both.

    fraction: of the videos that have people, in (0,1); at least one stays on each side. Which videos they are follows
    from their names alone, so all seeds and all recipes hold out the same. The parts keep the digest of the whole.
    """
    videos = sorted(
        {item.key.video for item in split.key_frames if len(item.boxes_N4)},
        key=lambda video: (seed_of("held_out", video), video),
    )
    if len(videos) < 2:
        raise InputError(
            f"validation.held_out is {fraction:g}, but {split.dataset}/{split.split} has {len(videos)} video with "
            "people; holding out takes two. Name another split with validation.split instead."
        )
    held_out = set(videos[: min(max(round(fraction * len(videos)), 1), len(videos) - 1)])
    parts = (tuple(item for item in split.key_frames if (item.key.video in held_out) is part) for part in (False, True))
    train, validation = (replace(split, key_frames=key_frames) for key_frames in parts)
    return train, validation


def held_out_note(train: PublishedSplit, validation: PublishedSplit) -> str:
    """Say which videos are held out. train: the rest."""
    names = sorted({item.key.video for item in validation.key_frames})
    total = len({item.key.video for item in train.key_frames} | set(names))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"validation on {len(names)} of {total} videos of {train.dataset}/{train.split}, which are not trained on: "
        f"{', '.join(names[:_SHOWN])}{more}"
    )
