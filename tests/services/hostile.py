"""What nobody should send: names that leave a root, messages of all kinds made from the .proto files, and raw bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import grpc
import psutil
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from PIL import Image

PATH_TRICKS = (
    "..",
    "../..",
    "../../etc/passwd",
    "/etc/passwd",
    "toy/../../x",
    "./../toy",
    "a\0b",
    "\0",
    "x" * 300,
    "x/" * 3000,
    "..\\..\\windows",
    "~root",
    "file:///etc/passwd",
    "$(id)",
    "-rf",
    "--help",
    " ",
    "\n",
    "*",
    "[!a]*",
    "\u202egpj",
)
"""None of them names a run, a data set, a split or a set of features."""

_KNOWN = ("", "toy", "train", "trained", "best", "latest")
_TEXTS = st.one_of(st.sampled_from([*_KNOWN, *PATH_TRICKS]), st.text(max_size=40))
_INT32 = st.one_of(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]), st.integers(-(2**31), 2**31 - 1))
_INT64 = st.one_of(st.sampled_from([0, 1, 7, -1, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1))
_SCALARS = {
    FieldDescriptor.TYPE_STRING: _TEXTS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=200),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_ENUM: st.integers(-2, 6),
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_FIXED64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
}


def _encodings() -> tuple[bytes, ...]:
    """One small picture in the forms that the decoders know."""
    picture, made = Image.linear_gradient("L").resize((48, 32)), []
    for mode, options in (
        ("RGB", {"format": "JPEG"}),
        ("RGB", {"format": "JPEG", "progressive": True}),
        ("CMYK", {"format": "JPEG"}),
        ("RGBA", {"format": "PNG"}),
        ("P", {"format": "PNG"}),
        ("I;16", {"format": "PNG"}),
    ):
        file = BytesIO()
        picture.convert(mode).save(file, **options)
        made.append(file.getvalue())
    return tuple(made)


def _damage(encoded: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    data = bytearray(encoded)
    for place, value in changes:
        data[place % len(data)] = value
    return bytes(data[: max(len(data) - cut, 1)])


_PLACES = st.one_of(st.integers(0, 60), st.integers(0, 2000))  # headers are where they begin
IMAGES = st.one_of(
    st.builds(
        _damage,
        st.sampled_from(_encodings()),
        st.lists(st.tuples(_PLACES, st.integers(0, 255)), max_size=6),
        st.one_of(st.just(0), st.integers(0, 500)),
    ),
    st.binary(max_size=200),
)
"""Nearly images: real encodings with some bytes changed or the end cut off; and anything."""


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """A well-formed message with any values in it."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        value = messages(field.message_type) if field.message_type else _SCALARS[field.type]
        if field.name == "image":
            value = IMAGES
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(value, max_size=3)))
        elif field.message_type:
            getattr(message, field.name).CopyFrom(draw(value))
        else:
            setattr(message, field.name, draw(value))
    return message


def raw_or_made(method: MethodDescriptor) -> st.SearchStrategy[bytes]:
    """The bytes of a request: a message, a damaged message, or anything."""
    made = messages(method.input_type).map(lambda message: message.SerializeToString())
    damaged = st.tuples(made, st.integers(0, 60), st.binary(max_size=8)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
    )
    return st.one_of(made, made, damaged, st.binary(max_size=100))


@dataclass(frozen=True)
class Caller:
    """Sends bytes as the requests of any method, as a client of another make would."""

    channel: grpc.Channel
    timeout_s: float = 20.0
    most_answers: int | None = None
    """Hang up after so many; for calls that do not end by themselves."""

    def call(self, method: MethodDescriptor, requests: list[bytes]) -> tuple[grpc.StatusCode, str]:
        """The status and its text; OK as well when there were more answers than are read."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.client_streaming:
                answers = self.channel.stream_stream(path)(iter(requests), timeout=self.timeout_s)
            else:
                answers = self.channel.unary_stream(path)(requests[0], timeout=self.timeout_s)
            for _ in islice(answers, self.most_answers):
                pass
            answers.cancel()
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""


REFUSALS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def is_orderly(code: grpc.StatusCode) -> bool:
    """True for an answer or a refusal; False for a crash inside the service, or a hang."""
    return code in REFUSALS


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        process = psutil.Process(pid)
        return cls(process.num_threads(), process.num_fds())

    def growth(self, before: "Footprint") -> Iterator[tuple[str, int]]:
        for name in ("threads", "descriptors"):
            yield name, getattr(self, name) - getattr(before, name)
