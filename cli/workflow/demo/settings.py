"""How large the demo is: the default takes about twelve minutes on two cores, `tiny` a minute."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Sizes of one demo run; what is not here is the commands' own default.

    detector_confidence: least confidence of a proposal; a detector after one step is sure of nothing.
    head_seeds: the heads are trained once for each; the page shows the first and compares them over all.
    train_overrides: extra `--set` values of every head training.
    """

    train_videos: int
    test_videos: int
    detector_images: int
    detector_epochs: int
    detector_confidence: float
    backbone_preset: str
    slowfast_steps: int
    vit_steps: int
    head_seeds: tuple[int, ...]
    train_overrides: tuple[str, ...] = ()


DEFAULT = DemoSettings(
    train_videos=160,
    test_videos=60,
    detector_images=480,
    detector_epochs=8,
    detector_confidence=0.3,
    backbone_preset="small",
    slowfast_steps=550,
    vit_steps=60,
    head_seeds=(0,),
    # Every person of the synthetic data set makes exactly one of the first 8 classes, the movements.
    train_overrides=("loss={kind: pose_softmax, num_poses: 8}",),
)

TINY = DemoSettings(
    train_videos=3,
    test_videos=2,
    detector_images=8,
    detector_epochs=1,
    detector_confidence=0.005,
    backbone_preset="tiny",
    slowfast_steps=2,
    vit_steps=2,
    head_seeds=(0,),
    train_overrides=("training.epochs=1",),
)
