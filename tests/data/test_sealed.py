"""Checksums inside files: no changed byte is taken for what was written."""

import json

import pytest

from stal_data.errors import InputError
from stal_data.sealed import UNSEALED, check_seal, parse_json, seal_file, sealed, sealed_json, sealed_text

TEXT = "a: 1\nb: [2, 3]\n"


def test_what_was_sealed_is_sound_and_other_content_has_no_checksum():
    assert check_seal(sealed_text(TEXT), "x", "")
    assert not check_seal(TEXT.encode(), "x", "")
    assert sealed_text(TEXT).decode().splitlines(keepends=True)[1:] == TEXT.splitlines(keepends=True)


def test_every_changed_byte_is_damage_or_leaves_the_content_alone():
    content = sealed_text(TEXT)
    for place in range(len(content)):
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        try:
            noticed = check_seal(damaged, "x", "")
        except InputError:
            continue
        # The text that marks the checksum is gone, and what follows that line is whole.
        assert not noticed
        assert damaged.partition(b"\n")[2].decode() == TEXT


@pytest.mark.parametrize("size", [80, 90, -1])
def test_a_cut_file_is_damaged(size):
    with pytest.raises(InputError, match=r"'x' is damaged: its sha256 is not the one that it carries. Go."):
        check_seal(sealed_text(TEXT)[:size], "x", "Go.")


def test_a_large_file_is_sealed_in_place(tmp_path):
    path = tmp_path / "large"
    content = UNSEALED.encode() + bytes(range(256)) * 10_000
    path.write_bytes(content)
    seal_file(path)
    assert path.read_bytes() == sealed(content)
    with path.open("rb") as file:
        assert check_seal(file, "large", "")
        assert file.tell() == 0
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with path.open("rb") as file, pytest.raises(InputError, match="'large' is damaged"):
        check_seal(file, "large", "")


def test_json_is_read_without_its_checksum_and_with_none():
    values = {"ü": [1.5, None], "b": {"c": "d"}}
    content = sealed_json(values)
    assert parse_json(content, "x", "") == values
    assert b"\n" not in sealed_json(values, indent=None)
    assert parse_json(json.dumps(values).encode(), "x", "") == values
    with pytest.raises(InputError, match="is damaged: its sha256"):
        parse_json(content.replace(b"1.5", b"1.6"), "x", "")
    for text in (b"[1]", b"{", b"\xff", b"", b"[" * 100_000):
        with pytest.raises(InputError, match="'x' is damaged: it is not"):
            parse_json(text, "x", "")
