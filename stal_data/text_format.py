"""Protobuf's text format as far as label maps use it; protobuf itself is not needed to evaluate."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from stal_data.errors import InputError, shown

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+')|(?P<word>[\w.+-]+)|(?P<sign>[{}<>\[\]:;,])"""
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_LETTERS = dict(zip(b"abfnrtv?'\"\\", b"\a\b\f\n\r\t\v?'\"\\", strict=True))


class Message(NamedTuple):
    """name: of the field that holds it. line: where it begins, from 1. fields: those with one plain value, as text."""

    name: str
    line: int
    fields: dict[str, str]


class _Token(NamedTuple):
    kind: str
    """`text`, `word`, `sign` or, last, `end`."""
    value: str
    line: int


def read_messages(text: str, source: str) -> Iterator[Message]:
    """Yield the messages of a file. Their lists and messages are skipped; a plain field given twice is an error.

    source: what errors call the file.
    """
    reader = _Reader(text, source)
    while reader.next.kind != "end":
        name = reader.take("'label {'", "'item {'", kind="word")
        yield Message(name.value, name.line, reader.message(name.value))


class _Reader:
    def __init__(self, text: str, source: str) -> None:
        self._tokens, self._source = _tokens(text, source), source
        self.next = next(self._tokens)

    def take(self, *expected: str, kind: str) -> _Token:
        """Return the next token, which must be of a kind and, if a sign, one of those expected."""
        token = self.next
        if token.kind == "end":
            raise InputError(f"{self._source}: the file ends where {' or '.join(expected)} should follow.")
        if token.kind != kind or (kind == "sign" and token.value not in expected):
            raise self._error(token, f"expected {' or '.join(expected)}, got {shown(token.value)}")
        self.next = next(self._tokens)
        return token

    def message(self, name: str) -> dict[str, str]:
        if self._at(":"):
            self.take(":", kind="sign")
        end = {"{": "}", "<": ">"}[self.take("{", "<", kind="sign").value]
        fields: dict[str, str] = {}
        while not self._at(end):
            field = self.take("a field", end, kind="word")
            if self._at("{", "<"):
                self._skip()
            else:
                self.take(":", kind="sign")
                if self._at("{", "<", "["):
                    self._skip()
                elif field.value in fields:
                    raise self._error(field, f"a second {shown(field.value)} in one {shown(name)}")
                else:
                    fields[field.value] = self._plain()
            while self._at(";", ","):
                self.take(";", ",", kind="sign")
        self.take(end, kind="sign")
        return fields

    def _at(self, *signs: str) -> bool:
        return self.next.kind == "sign" and self.next.value in signs

    def _plain(self) -> str:
        """Return a word, or texts that follow each other, joined."""
        if self.next.kind != "text":
            return self.take("a value", kind="word").value
        first, parts = self.next, []
        while self.next.kind == "text":
            parts.append(self._unescaped(self.take("a text", kind="text")))
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise self._error(first, f"the text {shown(first.value)} is not UTF-8 once its escapes are read") from None

    def _unescaped(self, token: _Token) -> bytes:
        def value_of(match: re.Match[bytes]) -> bytes:
            octal, hexadecimal, *unicode, letter = match.groups()
            try:
                if letter is not None:
                    return bytes([_LETTERS[ord(letter)]])
                for digits in filter(None, unicode):
                    return chr(int(digits, 16)).encode()
                return bytes([int(octal, 8) if octal is not None else int(hexadecimal, 16)])
            except (KeyError, ValueError):
                escape = match[0].decode(errors="replace")
                raise self._error(token, f"the text {shown(token.value)} has the unknown escape {escape}") from None

        return _ESCAPE.sub(value_of, token.value[1:-1].encode())

    def _skip(self) -> None:
        depth = 0
        while True:
            token = self.next
            if token.kind == "end":
                raise InputError(f"{self._source}: the file ends within a field that is a message or a list.")
            self.next = next(self._tokens)
            if token.kind == "sign":
                depth += (token.value in "{<[") - (token.value in "}>]")
            if depth == 0:
                return

    def _error(self, token: _Token, reason: str) -> InputError:
        return InputError(f"{self._source}, line {token.line}: {reason}.")


def _tokens(text: str, source: str) -> Iterator[_Token]:
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InputError(f"{source}, line {line}: cannot read {text[position : position + 20]!r} as a label map.")
        if match.lastgroup is not None:
            yield _Token(match.lastgroup, match[0], line)
        line += match[0].count("\n")
        position = match.end()
    yield _Token("end", "", line)
