"""Which frames a key frame's clip holds, and which frame belongs to a second."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stal_data.clips import clip_frames, key_image_frame, resolve_window
from stal_data.errors import InputError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.media import MediaInfo
from stal_data.media.timeline import frame_at, media_frame_at_slot, num_slots, slots_of_times, whole_seconds

FIXTURES = Path(__file__).parent / "fixtures"


def _info(num_frames: int, start_s: float = 0.0) -> MediaInfo:
    return MediaInfo(
        width=320, height=180, rate=Fraction(25), num_frames=num_frames, start_s=start_s, duration_s=num_frames / 25
    )


def _key_frame(time_ms: int, window: tuple[int, int] | None = None) -> AnnotatedKeyFrame:
    boxes = np.zeros((0, 4), np.float32)
    return AnnotatedKeyFrame(key=KeyFrame("v", time_ms), window=window, boxes_N4=boxes, labels=(), persons=())


@pytest.mark.parametrize(("window", "expected"), json.loads((FIXTURES / "temporal_center_crop_64_2.json").read_text()))
def test_clips_are_those_of_the_published_code(window: tuple[int, int], expected: list[int]) -> None:
    start, length = window
    assert clip_frames((start, start + length)) == expected


@given(start=st.integers(1, 1000), length=st.integers(1, 300))
def test_clips_stay_inside_their_window(start: int, length: int) -> None:
    frames = clip_frames((start, start + length))
    assert len(frames) == 32
    assert start <= min(frames)
    assert max(frames) < start + length


def test_a_window_without_frames_is_refused() -> None:
    with pytest.raises(InputError, match=r"window is 7 to 7, but frame_end \(exclusive\) must be greater"):
        clip_frames((7, 7))


def test_an_annotated_window_and_its_middle_are_taken_as_they_are() -> None:
    assert resolve_window(_key_frame(2000, (11, 92)), _info(150)) == (11, 92)
    assert key_image_frame(_key_frame(2000, (11, 92)), _info(150)) == 51


@pytest.mark.parametrize(
    ("time_ms", "frame", "window"),
    [
        (0, 1, (1, 33)),  # the first second: cut at the beginning
        (1000, 26, (1, 58)),
        (3000, 76, (44, 108)),
        (5000, 126, (94, 151)),  # the last second of a 6 s video: cut at the end
        (3200, 81, (49, 113)),
        (3219, 81, (49, 113)),
        (3220, 82, (50, 114)),  # between two frames the later one
        (3033, 77, (45, 109)),
    ],
)
def test_without_a_window_the_64_frames_around_the_time_are_taken(
    time_ms: int, frame: int, window: tuple[int, int]
) -> None:
    assert key_image_frame(_key_frame(time_ms), _info(150)) == frame
    assert resolve_window(_key_frame(time_ms), _info(150)) == window


@given(time_ms=st.integers(0, 10**7), start_s=st.integers(0, 5))
def test_the_frame_of_a_time_is_the_nearest_one_and_halves_go_up(time_ms: int, start_s: int) -> None:
    exact = math.floor((Fraction(time_ms, 1000) - start_s) * 25 + Fraction(1, 2)) + 1
    if exact >= 1:
        assert frame_at(time_ms, "v", _info(10**6, start_s)) == exact


@pytest.mark.parametrize(
    ("start_s", "second", "frame"),
    [(0.0, 0, 1), (0.0, 5, 126), (0.5, 1, 14), (0.04, 1, 25), (900.0, 900, 1), (900.0, 905, 126), (0.1, 0, 1)],
)
def test_the_frame_of_a_second_counts_from_the_start_of_the_media(start_s: float, second: int, frame: int) -> None:
    assert frame_at(1000 * second, "v", _info(150, start_s)) == frame


@pytest.mark.parametrize(
    ("start_s", "time_ms", "shown"),
    [
        (0.0, 6000, "0006"),
        (0.5, 0, "0000"),
        (900.0, 899000, "0899"),
        (900.0, 906000, "0906"),
        (0.0, 5980, "0005.98"),
    ],
)
def test_a_time_outside_the_media_is_refused(start_s: float, time_ms: int, shown: str) -> None:
    with pytest.raises(InputError, match=rf"Second {shown} of video 'v' has no frame: its media run from"):
        frame_at(time_ms, "v", _info(150, start_s))


@given(start=st.integers(0, 5000), num_frames=st.integers(1, 2000))
@example(start=1298, num_frames=1)  # 12.98 s: floating point decides whether second 13 is half a frame away
def test_whole_seconds_are_exactly_those_that_have_a_frame(start: int, num_frames: int) -> None:
    info = _info(num_frames, start / 100)
    seconds = whole_seconds(info)

    def has_frame(second: int) -> bool:
        try:
            return frame_at(1000 * second, "v", info) >= 1
        except InputError:
            return False

    nearby = range(start // 100 - 3 if start >= 300 else 0, start // 100 + num_frames // 25 + 4)
    assert [second for second in nearby if has_frame(second)] == list(seconds)


@pytest.mark.parametrize(
    ("rate", "first_slots"),
    [
        (Fraction(25), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Fraction(50), [0, 2, 4, 6, 8, 10, 12, 14]),
        # At 12.5 fps the second picture falls on slot 2: each is shown twice.
        (Fraction(25, 2), [0, 0, 1, 1, 2, 2, 3, 3]),
        # At 30 fps pictures go to slots 0 1 2 3(2.5) 3(3.3) 4 5: of two in one slot the later one is shown.
        (Fraction(30), [0, 1, 2, 4, 5, 6, 7, 8]),
        (Fraction(30_000, 1001), [0, 1, 2, 4, 5, 6, 7, 8]),
    ],
)
def test_slots_show_the_picture_that_ffmpeg_would_take(rate: Fraction, first_slots: list[int]) -> None:
    assert [media_frame_at_slot(slot, rate) for slot in range(8)] == first_slots


@given(rate=st.fractions(min_value=1, max_value=120, max_denominator=1001), count=st.integers(2, 200))
def test_the_rule_for_constant_rates_is_the_rule_for_times(rate: Fraction, count: int) -> None:
    ticks = np.arange(count, dtype=np.int64)
    slots = slots_of_times(ticks, 1 / rate)
    for slot in range(num_slots(count / rate)):
        assert min(media_frame_at_slot(slot, rate), count - 1) == np.searchsorted(slots, slot, side="right") - 1
