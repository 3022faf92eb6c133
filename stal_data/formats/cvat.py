"""CVAT for video 1.1 and CVAT for images 1.1, of projects, tasks and jobs: XML, or the archive around it."""

import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO
from xml.etree import ElementTree
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from stal_data.errors import InputError, StalError, shown
from stal_data.formats.cvat_document import Document
from stal_data.formats.sources import MAX_BYTES, Reading, Source, ToolFormat
from stal_data.formats.tracks import FileAnnotations
from stal_data.user_files import open_regular

_CHUNK = 1 << 16


def _read(source: Source, reading: Reading) -> FileAnnotations:
    documents = list(_documents(source, reading))
    left_out: Counter[str] = Counter()
    for document in documents:
        left_out.update(document.left_out)
    return FileAnnotations(
        videos=[video for document in documents for video in document.videos()],
        actions=list(dict.fromkeys(name for document in documents for name in document.actions())),
        left_out=left_out,
    )


def _documents(source: Source, reading: Reading) -> Iterator[Document]:
    path = source.path
    with open_regular(path) as file:
        if source.kind == "XML":
            _check_size(str(path), path.stat().st_size)
            yield _parsed(file, Document(str(path), path.stem, reading), str(path))
            return
        try:
            with ZipFile(file) as archive:
                members = _members(archive)
                _check_size(str(path), sum(item.file_size for item in members))
                for item in members:
                    where = f"{path}: {item.filename}"
                    # The size above is the most that comes out of a member, also where its content would be more.
                    if item.flag_bits & 1 or item.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                        raise InputError(f"{where} is encrypted, or packed in a way that is not read: unpack it first.")
                    with archive.open(item) as member:
                        yield _parsed(member, Document(where, path.stem, reading), where)
        except (BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise InputError(f"{path} is not a whole archive: {error}. Export it again.") from None


def _members(archive: ZipFile) -> list[ZipInfo]:
    return [item for item in archive.infolist() if item.filename.endswith(".xml")]


def _check_size(where: str, size: int) -> None:
    if size > MAX_BYTES:
        raise InputError(f"{where} has more than {MAX_BYTES} bytes of XML: export the jobs one by one.")


def _parsed(file: IO[bytes], document: Document, where: str) -> Document:
    parser = ElementTree.XMLParser(target=document)  # noqa: S314 - the target refuses what defusedxml would
    try:
        while chunk := file.read(_CHUNK):
            parser.feed(chunk)
        parser.close()
    except (StalError, BadZipFile):
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two for its encoding
        raise InputError(f"{where} is not whole XML: {error}. Export it again.") from None
    return document


def _lacks(source: Source) -> str | None:
    if source.kind not in ("XML", "zip archive"):
        return source.lacks_kind("XML")
    with open_regular(source.path) as file:
        if source.kind == "XML":
            return _lacks_root(file)
        try:
            with ZipFile(file) as archive:
                members = _members(archive)
                if not members:
                    return "it is a zip archive without XML"
                with archive.open(members[0]) as member:
                    return _lacks_root(member)
        except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            return f"it is a zip archive that cannot be read: {error}"


def _lacks_root(file: IO[bytes]) -> str | None:
    start = file.read(_CHUNK)
    return None if b"<annotations" in start else f"its XML begins with {shown(start[:60].decode(errors='replace'))}"


CVAT = ToolFormat(name="cvat", lacks=_lacks, read=_read)
