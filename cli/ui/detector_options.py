"""Options that choose a detector's weights and how they run, alike in every command that starts one itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from cli.ui.options import with_options
from cli.ui.params import CONFIDENCE, IMAGE_SIZE, NUMBER_LIST, Real

if TYPE_CHECKING:
    from recognizer_svc.packed_models.description import PackedDetector

CONFIDENCE_DEFAULT, OVERLAP_DEFAULT = 0.3, 0.7
_SETTINGS = ("image_size", "confidence", "overlap", "classes")
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class DetectorChoice:
    """What the user gave; None = not given."""

    weights: Path | None
    image_size: tuple[int, int] | None
    confidence: float | None
    overlap: float | None
    classes: tuple[int, ...] | None

    def settings(self) -> dict[str, Any]:
        """The choice with its defaults, but for the weights: fields of a DetectorConfig and of a PackedDetector."""
        return {
            "image_size": self.image_size,
            "confidence": CONFIDENCE_DEFAULT if self.confidence is None else self.confidence,
            "overlap": OVERLAP_DEFAULT if self.overlap is None else self.overlap,
            "classes": self.classes,
        }

    def packed(self, digest: str) -> "PackedDetector":
        """The choice with its defaults, for weights of this digest."""
        from recognizer_svc.packed_models.description import PackedDetector

        assert self.weights is not None
        return PackedDetector(name=self.weights.stem, digest=digest, **self.settings())

    def or_else(self, packed: "PackedDetector") -> "DetectorChoice":
        """The choice, with a packed detector's settings where nothing was given."""
        return replace(self, **{name: getattr(packed, name) for name in _SETTINGS if getattr(self, name) is None})

    def words(self) -> tuple[str, ...]:
        """The options of `serve detector`, without the weights."""
        size = None if self.image_size is None else "{}x{}".format(*self.image_size)
        classes = None if self.classes is None else ",".join(map(str, self.classes))
        values = {"image-size": size, "confidence": self.confidence, "overlap": self.overlap, "classes": classes}
        return tuple(word for name, value in values.items() if value is not None for word in (f"--{name}", str(value)))


def detector_options(command: Command) -> Command:
    """Give a command the options; it gets a DetectorChoice as `chosen_detector`."""
    exists = click.Path(exists=True, dir_okay=False, path_type=Path)
    weights = click.option("--detector-weights", type=exists, help="YOLO weights, .pt or .onnx.")
    return detector_options_with(weights)(command)


def detector_options_with(weights: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """The same, with another option `detector_weights`."""
    options = (
        weights,
        click.option(
            "--image-size",
            type=IMAGE_SIZE,
            help="Detector input, height x width; default: what its weights were trained at.",
        ),
        click.option("--confidence", type=CONFIDENCE, help=f"Least box confidence. [default: {CONFIDENCE_DEFAULT}]"),
        click.option(
            "--overlap",
            type=Real(0, 1, min_open=True),
            help=f"IoU above which two boxes are one person. [default: {OVERLAP_DEFAULT}]",
        ),
        click.option(
            "--classes", type=NUMBER_LIST, help="Detector class ids that are people; default: those named person."
        ),
    )

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_choice(*, detector_weights: Path | None, **given: Any) -> Any:
            own = {name: given.pop(name) for name in _SETTINGS}
            return command(chosen_detector=DetectorChoice(weights=detector_weights, **own), **given)

        return cast(Command, with_options(with_choice, options))

    return decorate
