"""How texts write a number of things."""

import pytest

from stal_data.amounts import amount


@pytest.mark.parametrize(
    ("words", "one", "several"),
    [
        (("video",), "1 video", "2 videos"),
        (("key frame",), "1 key frame", "2 key frames"),
        (("box",), "1 box", "2 boxes"),
        (("class",), "1 class", "2 classes"),
        (("person", "people"), "1 person", "2 people"),
    ],
)
def test_one_thing_is_written_in_the_singular(words: tuple[str, ...], one: str, several: str) -> None:
    assert (amount(1, *words), amount(2, *words)) == (one, several)
    assert amount(0, *words) == f"0{several[1:]}"
