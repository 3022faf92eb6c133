"""The formats of annotation tools and published data sets that can be imported: one file each, one line each here."""

from stal_data.errors import InputError, did_you_mean
from stal_data.formats.ava_files import AVA_FILE
from stal_data.formats.coco import COCO
from stal_data.formats.cvat import CVAT
from stal_data.formats.label_studio import LABEL_STUDIO
from stal_data.formats.sources import Source, ToolFormat
from stal_data.formats.tubes import TUBES
from stal_data.formats.via import VIA
from stal_data.formats.yolo import YOLO

TOOL_FORMATS: dict[str, ToolFormat] = {
    item.name: item for item in (CVAT, COCO, LABEL_STUDIO, VIA, YOLO, AVA_FILE, TUBES)
}


def recognised(source: Source, name: str = "auto") -> ToolFormat:
    """Return the format that the content has, or the named one; an error says what the source lacks for each."""
    if name == "auto":
        lacks = {item.name: item.lacks(source) for item in TOOL_FORMATS.values()}
        found = [key for key, reason in lacks.items() if reason is None]
        if len(found) == 1:
            return TOOL_FORMATS[found[0]]
        if found:
            raise InputError(f"{source.path} may be {' or '.join(found)}: give --format.")
        reasons = "".join(f"\n  {key}: {reason}" for key, reason in lacks.items())
        raise InputError(f"{source.path} is in none of the formats that can be imported:{reasons}\n{_way_out(source)}")
    if name not in TOOL_FORMATS:
        raise InputError(f"There is no format '{name}' to import. {did_you_mean(name, TOOL_FORMATS)}")
    reason = TOOL_FORMATS[name].lacks(source)
    if reason is not None:
        raise InputError(f"{source.path} is not in the format {name}: {reason}.")
    return TOOL_FORMATS[name]


def _way_out(source: Source) -> str:
    if source.kind == "zip archive":
        return "Unpack it first."
    if source.kind == "pickle":
        return "stal-cli detect --import reads pickles of detections, import-published those of Chaotic World."
    return "docs/annotation-formats.md says how each tool exports."
