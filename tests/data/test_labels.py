"""Label maps in both layouts, names and ids, and what is refused."""

import tracemalloc
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from stal_data.errors import InputError, NotFoundError
from stal_data.labels import Label, LabelMap
from stal_data.names import check_name, check_video_id

FIXTURES = Path(__file__).parent / "fixtures"


def test_the_chaotic_world_map_is_read() -> None:
    label_map = LabelMap.read(FIXTURES / "list_action.pbtxt")
    assert label_map.num_classes == 50
    assert label_map.ids == tuple(range(1, 51))
    assert (label_map.names[0], label_map.names[-1]) == ("aiming weapon", "waving hands")
    assert set(label_map.types) == {"PERSON_MOVEMENT"}
    assert label_map.index_of(50) == 49


def test_avas_layout_is_read_and_ids_keep_their_gaps() -> None:
    text = "item {\n  name: \"bend/bow (at the waist)\"\n  id: 1\n}\n# pose\nitem { name: 'run' id: 10 }"
    label_map = LabelMap.parse(text, "ava.pbtxt")
    assert label_map.labels == (Label(1, "bend/bow (at the waist)"), Label(10, "run"))
    assert label_map.index_of(10) == 1
    assert 2 not in label_map
    with pytest.raises(InputError, match=r"Label 2 is not in ava.pbtxt, which has 2 labels, 1 to 10"):
        label_map.index_of(2)


def test_the_text_format_of_protobuf_is_read_as_protobuf_does() -> None:
    text = r"""# made elsewhere
    item { name: "caf\303\251" id: 1 display_name: "x" }  # octal UTF-8
    item: < name: 'it\'s \x41\u00e9' " \"b\"" id: 3; keypoints { id: 7 label: 'nose' } tags: ["a", 'b'] >
    """
    text = text.replace("\\\\", "\\")
    assert LabelMap.parse(text, "m").labels == (Label(1, "café"), Label(3, 'it\'s Aé "b"'))


@given(name=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_names_escaped_by_protobuf_itself_come_back(name: str) -> None:
    for as_utf8 in (False, True):
        text = text_format.MessageToString(StringValue(value=name), as_utf8=as_utf8).replace("value:", "name:")
        assert LabelMap.parse(f"label {{ {text} label_id: 1 }}", "m").names == (name,)


@given(names=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), min_size=1, unique=True))
def test_any_map_survives_writing_and_reading(names: list[str]) -> None:
    label_map = LabelMap(Label(index * 3 + 1, name, "T" * (index % 2)) for index, name in enumerate(names))
    again = LabelMap.parse(label_map.to_pbtxt(), "again")
    assert again == label_map
    assert again.digest == label_map.digest


def test_the_digest_follows_the_content_not_the_layout() -> None:
    first = LabelMap.parse('label { label_id: 2 name: "b" } label { label_id: 1 name: "a" }', "x")
    second = LabelMap.parse('label {\n name: "a"\n label_id: 1\n}\nlabel { name: "b", label_id: 2 }', "y")
    renamed = LabelMap.parse('label { name: "a" label_id: 1 } label { name: "c" label_id: 2 }', "z")
    assert first.digest == second.digest != renamed.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.pbtxt holds no label"),
        ('label { name: "a" label_id: 0 }', "the id of 'a' is 0, but ids start at 1"),
        ('label { name: "a" }', "line 1: a label needs a name and a label_id"),
        ('label { name: "a" label_id: 1 }\nlabel { name: "b" label_id: 1 }', "the id 1 is used twice"),
        ('label { name: "a" label_id: 1 }\nlabel { name: "a" label_id: 2 }', "the name a is used twice"),
        ('label { name: "a" label_id: one }', "the id of 'a' is 'one', but must be a whole number"),
        ('label {\n name: "a"\n label_id 1 }', "line 3: expected :, got '1'"),
        ('label { name: "a" label_id: 1', "the file ends where a field or } should follow"),
        ("\n\nclass { }", "line 3: expected 'label {' or 'item {', got 'class'"),
        ('label { name: "a', "line 1: cannot read"),
        ('label { name: "a" label_id: 2147483648 }', "ids start at 1 and end at 2147483647"),
        ('label { name: "a" label_id: 010 }', "'010', but must be a whole number without leading zeros"),
        ('label { name: "a" label_id: 1 label_type: "a } b" }', "the label_type of 'a' is 'a } b', but must hold"),
        ('label { name: "a"\n name: "b" label_id: 1 }', "line 2: a second 'name' in one 'label'"),
        ('label { name: "a\\q" label_id: 1 }', "line 1: the text .* has the unknown escape"),
        ('label { name: "a\\303" label_id: 1 }', "line 1: the text .* is not UTF-8 once its escapes are read"),
        ('label { name: "a\\n" label_id: 1 }', r"the name of label 1 is 'a\\n', but must be printable"),
        ("label { a: [", "the file ends within a field"),
        (f'label {{ name: "{"a" * 1001}" label_id: 1 }}', "must be printable text of at most 1000 characters"),
    ],
)
def test_a_broken_map_names_the_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("{", r"\{")):
        LabelMap.parse(text, "m.pbtxt")


@pytest.mark.parametrize(
    "text", ['label {{ name: "{}" label_id: 1 }}', "label {{ {}: 1 }}", "{} {{ }}", "label {{ {0}: 1 {0}: 1 }}"]
)
def test_a_name_of_megabytes_takes_little_memory_and_is_shown_in_short(text: str) -> None:
    text = text.format("a" * (2 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as raised:
            LabelMap.parse(text, "m.pbtxt")
        assert tracemalloc.get_traced_memory()[1] < 10 * len(text)
    finally:
        tracemalloc.stop()
    assert len(str(raised.value)) < 1000


def test_a_missing_map_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"label map .*none.pbtxt does not exist"):
        LabelMap.read(tmp_path / "none.pbtxt")


@pytest.mark.parametrize("name", ["a", "a.b-c_1", "0"])
def test_good_names_pass(name: str) -> None:
    assert check_name("--name", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "a\n", "ü"])
def test_names_that_could_leave_a_folder_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--name is .*choose another name"):
        check_name("--name", name)


@pytest.mark.parametrize("video", ["", ".", "..", "a/../b", "a/b", "a\\b", "a\0b", "a\nb"])
def test_video_ids_that_could_leave_the_media_folder_are_refused(video: str) -> None:
    with pytest.raises(InputError, match="a video id must be printable"):
        check_video_id("the video", video)


def test_video_ids_may_hold_spaces_and_letters_of_any_script() -> None:
    assert check_video_id("the video", "Straße 7 (b).v2") == "Straße 7 (b).v2"
