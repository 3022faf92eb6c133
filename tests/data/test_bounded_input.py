"""Files that never end, or stand for more than they hold: refused at once, by name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stal_data.annotations import read_exclusions
from stal_data.dataset_spec import read_spec
from stal_data.errors import InputError
from stal_data.formats import FORMATS
from stal_data.labels import MAX_LABELS, LabelMap
from stal_data.media.frames import FrameFolders
from stal_data.media.images import image_file_to_send, read_image_file
from stal_data.published.unpickle import load_plain
from stal_data.user_files import read_bounded
from stal_data.yaml_text import MAX_DEPTH, load_yaml, read_yaml

READERS: dict[str, Callable[[Path], object]] = {
    "label map": LabelMap.read,
    "CSV": lambda path: read_exclusions(path, FORMATS["ava"]),
    "dataset.yaml": read_spec,
    "YAML": read_yaml,
    "pickle": load_plain,
    "frame": read_image_file,
    "frame to send": image_file_to_send,
}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(("make", "kind"), [(fifo, "a pipe"), (endless, "a device"), (folder, "a folder")])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_regular_file_is_refused_at_once(
    make: Callable[[Path], None], kind: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / "file")
    with pytest.raises(InputError, match=f"file' is {kind}, but must be a regular file"):
        read(tmp_path / "file")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_huge_file_without_content_is_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"file.* (has more than|has 1099511627776 bytes)"):
        read(tmp_path / "file")


def test_a_frame_that_never_ends_is_named(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    endless(tmp_path / "v" / "v_000001.png")
    with pytest.raises(InputError, match=r"v_000001\.png' is a device, but must be a regular file"):
        FrameFolders(tmp_path).info("v")


def test_one_stray_number_makes_no_endless_video(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for number in ("000001", "999999999999"):
        (tmp_path / "v" / f"v_{number}.png").touch()
    with pytest.raises(InputError, match="numbered up to 999999999999, which is more than a week of video"):
        FrameFolders(tmp_path).info("v")


def test_a_file_at_the_bound_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert read_bounded(tmp_path / "file", 3) == b"abc"
    with pytest.raises(InputError, match="has more than 2 bytes"):
        read_bounded(tmp_path / "file", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x, x]\nb: [*a, *a]", r"aliases such as \*name are not accepted, write the value out \(line 2\)"),
        ("a: &a [*a]", r"aliases such as \*name"),
        ("<<: [{a: 1}, *b]", r"aliases such as \*name"),
        ("a: !!python/object/apply:os.system ['true']", "tags such as !!name"),
        ("!!int ''", "tags such as !!name"),
        ("[" * 100_000, f"more than {MAX_DEPTH} levels"),
        ("{a: " * 100_000, f"more than {MAX_DEPTH} levels"),
        ("- " * 100_000, f"more than {MAX_DEPTH} levels"),
        ("a: 0x" + "f" * 100_000, "numbers of more than 100 characters"),
        ("a: " + "1:" * 50_000 + "1.5", "numbers of more than 100 characters"),
        ("a: 2001-99-99", "month must be in 1..12"),
        ("a: 1\na: 2", r"the key 'a' is there twice \(line 2\)"),
        ("\n".join(f"{number * (2**61 - 1)}: x" for number in range(1000)), "a key must be text"),
        ("? [a]\n: 1", "a key must be text"),
        ("a: 'x", r"found unexpected end of stream \(line 1\)"),
        ("\0", "special characters are not allowed"),
        ("a: x\n---\na: x", "found another document"),
        ("x" * (8 << 20) + "y", "has 8388609 characters, but may have 8388608 at most"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_yaml_is_plain_data_or_one_line_that_says_why_not(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^recipe (is not YAML: .*)?{message}") as caught:
        load_yaml(text, "recipe")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_the_keys_and_values_of_a_text_are_counted() -> None:
    assert load_yaml("[1, 2, 3]", "x", max_nodes=4) == [1, 2, 3]
    with pytest.raises(InputError, match=r"x is not YAML: more than 3 keys and values are not accepted \(line 2\)"):
        load_yaml("[1, 2,\n 3]", "x", max_nodes=3)


def test_good_yaml_passes() -> None:
    text = "a: {b: [1, 2.5, null, true], <<: {c: '1'}}\nd: 2024-01-01\n"
    values = load_yaml(text, "x")
    assert values["a"] == {"b": [1, 2.5, None, True], "c": "1"}
    assert load_yaml("", "x") is None


@pytest.mark.parametrize(
    "content",
    [
        "splits: {" + ", ".join(f"s{number}: {{}}" for number in range(2000)) + "}",
        ", ".join(["k" * 1000] * 3),
        "name: {" + "a: {" * 15 + "b: [" + "x, " * 5000 + "]" + "}" * 16,
        "k" * 100_000 + ": 1",
        "name: " + "x" * 100_000,
    ],
    ids=lambda value: value[:12],
)
def test_what_is_wrong_with_a_data_set_fits_on_a_screen(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.yaml") as caught:
        read_spec(tmp_path / "dataset.yaml")
    assert len(str(caught.value)) < 10_000


def label_map(count: int) -> str:
    return "".join(f'label {{ name: "action {number}" label_id: {number} }}\n' for number in range(1, count + 1))


def test_the_largest_label_map_is_read_and_a_larger_one_refused() -> None:
    assert LabelMap.parse(label_map(MAX_LABELS), "m.pbtxt").num_classes == MAX_LABELS
    with pytest.raises(InputError, match=f"m.pbtxt holds {MAX_LABELS + 1} labels, but may hold {MAX_LABELS} at most"):
        LabelMap.parse(label_map(MAX_LABELS + 1), "m.pbtxt")


def test_a_label_id_that_no_message_carries_is_refused() -> None:
    with pytest.raises(InputError, match="the id of 'a' is 2147483648, but ids start at 1 and end at 2147483647"):
        LabelMap.parse('label { name: "a" label_id: 2147483648 }', "m.pbtxt")
    with pytest.raises(InputError, match="must be a whole number"):
        LabelMap.parse(f'label {{ name: "a" label_id: {"9" * 5000} }}', "m.pbtxt")
