"""What a packed model says of itself, read without torch.

MODEL/
  model.json            see PackedModel
  README.md             the model card
  head.safetensors, recipe.yaml, label_map.pbtxt
  KIND.safetensors      the weights of a backbone
  detector.pt, or detector.onnx
Each file but the detector carries a checksum; model.json holds that of the detector.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.spec import FeatureSpec
from stal_data.digests import sha256_of
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.labels import LabelMap
from stal_data.sealed import read_json

FORMAT = 1
FILE = "model.json"
_WAY_OUT = "Copy the folder again, or pack the run again with 'stal-cli models pack'."


@dataclass(frozen=True, kw_only=True)
class PackedDetector:
    """The detector that belongs to a model.

    name: what its proposals are filed under. digest: `sha256:<hex>` of its file. image_size: height and width of its
    input, None = what it was trained at. confidence, overlap, classes: as the options of `serve detector`.
    """

    name: str
    digest: str
    image_size: tuple[int, int] | None
    confidence: float
    overlap: float
    classes: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class PackedModel:
    """A model that was packed.

    run: id of the run it was packed from. head: sha256 of the head's tensors.
    feature_spec: of the features that the head takes. thresholds: score by label id from which an action counts;
    of other classes none is known.
    """

    folder: Path = field(compare=False)
    run: str
    head: str
    feature_spec: FeatureSpec
    detector: PackedDetector | None
    thresholds: Mapping[int, float]

    @property
    def run_id(self) -> str:
        """Name of the run that it is in a store; models of other tensors have other names."""
        return f"{self.run}-{self.head.removeprefix('sha256:')[:12]}"

    def backbone_file(self, kind: str) -> Path | None:
        path = backbone_file(self.folder, kind)
        return path if path.is_file() else None

    def detector_file(self) -> Path | None:
        """Path of the detector's weights, whose checksum is verified; None where they were not packed."""
        for path in detector_files(self.folder):
            if self.detector is not None and path.is_file():
                if f"sha256:{sha256_of(path)}" != self.detector.digest:
                    raise InputError(f"'{path}' is damaged: its sha256 is not the one in {FILE}. {_WAY_OUT}")
                return path
        return None

    def label_map(self) -> LabelMap:
        return LabelMap.read(self.folder / "label_map.pbtxt")

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "run": self.run,
            "head": self.head,
            "feature_spec": self.feature_spec.to_dict(),
            "detector": self.detector and asdict(self.detector),
            "thresholds": {str(label): score for label, score in self.thresholds.items()},
        }


def check_new_folder(output: Path) -> None:
    """Refuse an output folder that holds something, before work is done for it."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConflictError(f"--output is '{output}', which is there already; name a new or empty folder.")


def backbone_file(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.safetensors"


def detector_files(folder: Path) -> tuple[Path, Path]:
    return folder / "detector.pt", folder / "detector.onnx"


def read_packed_model(folder: Path) -> PackedModel:
    """Read what is in the folder; anything else than a packed model is an error that says so."""
    path = folder / FILE
    if not path.is_file():
        raise NotFoundError(f"'{folder}' is no packed model: it has no {FILE}. 'stal-cli models pack RUN' makes one.")
    values = read_json(path, _WAY_OUT)
    if values.get("format") != FORMAT:
        raise InputError(
            f"'{path}' has format {values.get('format')!r}; this version reads {FORMAT}. Pack the run again, or use "
            "the version that packed it."
        )
    try:
        detector = values["detector"]
        return PackedModel(
            folder=folder,
            run=str(values["run"]),
            head=str(values["head"]),
            feature_spec=FeatureSpec.from_dict(values["feature_spec"]),
            detector=None if detector is None else _detector(detector),
            thresholds={int(label): float(score) for label, score in values["thresholds"].items()},
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"'{path}' is damaged ({error!r:.200}). {_WAY_OUT}") from None


def _detector(values: Mapping[str, Any]) -> PackedDetector:
    size, classes = values["image_size"], values["classes"]
    return PackedDetector(
        name=str(values["name"]),
        digest=str(values["digest"]),
        image_size=None if size is None else (int(size[0]), int(size[1])),
        confidence=float(values["confidence"]),
        overlap=float(values["overlap"]),
        classes=None if classes is None else tuple(map(int, classes)),
    )
