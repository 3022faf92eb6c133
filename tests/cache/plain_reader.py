"""A reader of feature sets written from docs/cache-format.md alone; it imports nothing of the project.

Where this file needs more than that page says, the page is wrong.
"""

import hashlib
import json
import struct
from pathlib import Path

import google_crc32c
import numpy as np

FEATURES = ("slow", "fast", "vit", "vit_moments")
COLUMNS = (
    "digest",
    "done",
    "source",
    "index",
    "index/video",
    "index/frame_start",
    "index/frame_end",
)


class Refused(Exception):
    pass


def checked(content: bytes, what: object) -> bytes:
    """The bytes before a crc32c that ends them."""
    body, stored = content[:-4], struct.unpack("<I", content[-4:])[0]
    if google_crc32c.value(body) != stored:
        raise Refused(f"crc32c of {what}")
    return body


class PlainSet:
    def __init__(self, root: Path) -> None:
        self.root = root
        group = json.loads((root / "zarr.json").read_text())
        self.attributes = group["attributes"]
        if (self.attributes["format"], self.attributes["version"]) not in (("stal-features", 2), ("stal-features", 3)):
            raise Refused("format")
        # Of version 2 whole seconds, of version 3 milliseconds.
        self.times = {2: "index/timestamp", 3: "index/time_ms"}[self.attributes["version"]]
        self.num_rows, self.rows_per_shard = self.attributes["num_rows"], self.attributes["rows_per_shard"]
        self.shapes = self.attributes["shapes"]
        self.arrays = [name for name in FEATURES if name in self.shapes]
        self._check_seal()
        self.videos = self._videos()
        times, self.starts, self.ends = (
            self._column(name, "<i8") for name in (self.times, "index/frame_start", "index/frame_end")
        )
        self.times_ms = times * (1000 if self.attributes["version"] == 2 else 1)
        self.sources = self._column("source", "<u8")

    def _check_seal(self) -> None:
        rest = {name: value for name, value in self.attributes.items() if name != "digest"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(text.encode()).hexdigest() != self.attributes["digest"]:
            raise Refused("digest of the attributes")
        for name in (*self.arrays, *COLUMNS, self.times):
            found = hashlib.sha256((self.root / name / "zarr.json").read_bytes()).hexdigest()
            if found != self.attributes["metadata"][name]:
                raise Refused(f"digest of {name}/zarr.json")
        spec = json.dumps(self.attributes["spec"], sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(spec.encode()).hexdigest()[:16] != self.attributes["spec_id"]:
            raise Refused("spec id")

    def _column(self, name: str, dtype: str, shard: int = 0) -> np.ndarray:
        path = self.root / name / "c" / str(shard)
        return np.frombuffer(checked(path.read_bytes(), path), dtype)

    def _videos(self) -> list[str]:
        path = self.root / "index/video/c/0"
        body = checked(path.read_bytes(), path)
        (count,), position, names = struct.unpack_from("<I", body), 4, []
        for _ in range(count):
            (length,) = struct.unpack_from("<I", body, position)
            names.append(body[position + 4 : position + 4 + length].decode())
            position += 4 + length
        return names

    def done(self, row: int) -> bool:
        shard, local = divmod(row, self.rows_per_shard)
        if not (self.root / "done/c" / str(shard)).exists():
            return False
        return self._column("done", "u1", shard)[local] == 1

    def read(self, row: int) -> dict[str, np.ndarray]:
        if not 0 <= row < self.num_rows or not self.done(row):
            raise Refused(f"row {row} is not done")
        shard, local = divmod(row, self.rows_per_shard)
        values, checksums = {}, []
        for name in self.arrays:
            shape = self.shapes[name]
            dtype = "<f4" if name == "vit_moments" or self.attributes["spec"]["dtype"] == "float32" else "<f2"
            path = self.root.joinpath(name, "c", str(shard), *["0"] * len(shape))
            content = path.read_bytes()
            index = checked(content[-(self.rows_per_shard * 16 + 4) :], path)
            offset, length = struct.unpack_from("<QQ", index, local * 16)
            if length != int(np.prod(shape)) * np.dtype(dtype).itemsize + 4:
                raise Refused(f"length of row {row} in {path}")
            chunk = content[offset : offset + length]
            values[name] = np.frombuffer(checked(chunk, path), dtype).reshape(shape)
            checksums.append(chunk[-4:])
        time_ms = int(self.times_ms[row])
        digested = -time_ms if time_ms % 1000 else time_ms // 1000
        head = struct.pack("<qqqQ", digested, self.starts[row], self.ends[row], self.sources[row])
        digest = hashlib.blake2b(head + self.videos[row].encode() + b"".join(checksums), digest_size=8).digest()
        if int.from_bytes(digest, "little") != self._column("digest", "<u8", shard)[local]:
            raise Refused(f"digest of row {row}")
        return values
