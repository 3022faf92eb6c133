"""`stal-cli models pack`, `install` and `export`: a trained head with all that it needs, as one folder."""

from pathlib import Path

import click

from cache.backbones.choice import BackboneChoice
from cache.store import Store
from cli.ui.backbone_options import backbone_options
from cli.ui.detector_options import DetectorChoice, detector_options
from recognizer_svc.packed_models.description import read_packed_model
from stal_data.digests import sha256_of
from stal_data.labels import LabelMap

_STORE = click.option("--store", "store_url", required=True, help="Folder or s3:// URL of the store.")


@click.command()
@click.argument("run_id", metavar="RUN")
@_STORE
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to make; new or empty."
)
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), help="Default: best where the run keeps it, else latest."
)
@backbone_options(required=False)
@detector_options
@click.option(
    "--thresholds",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="metrics.json that 'eval' wrote: an action then counts from the score where its class has its best F1.",
)
def pack(
    run_id: str,
    store_url: str,
    output: Path,
    checkpoint: str | None,
    backbones: list[BackboneChoice],
    chosen_detector: DetectorChoice,
    thresholds: Path | None,
) -> None:
    """Write RUN's head to a folder with the weights of backbones and detector that are named, and a model card.

    With all of them the folder is enough for 'infer --model'. What is not named is left out; the folder then knows
    the digests of the backbones, and 'infer' asks for the files. 'runs import' takes head.safetensors into other
    stores.

    \b
    Examples:
      stal-cli models pack first --store store --output first.stal
      stal-cli models pack first --store store --output first.stal --slowfast slowfast.safetensors \\
          --vit vit.safetensors --detector-weights person.pt --thresholds eval-out/metrics.json
    """
    from recognizer_svc.packed_models.pack import Belongings, pack_run
    from recognizer_svc.runs.store import RunStore
    from stal_eval.thresholds import read_thresholds

    runs = RunStore.of(Store.open(store_url))
    runs.fetch(run_id)
    run = runs.find_present(run_id)
    weights = chosen_detector.weights
    belongings = Belongings(
        backbones=[(Path(choice.weights or ""), choice.load()) for choice in backbones],
        detector=None if weights is None else (weights, chosen_detector.packed(f"sha256:{sha256_of(weights)}")),
        thresholds={} if thresholds is None else read_thresholds(thresholds, LabelMap.read(run.label_map)),
    )
    names = pack_run(run, output.absolute(), belongings, checkpoint or "")
    click.echo(f"Wrote {', '.join(names)} to {output}.")


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_STORE
def install(model: Path, store_url: str) -> None:
    """Make the packed MODEL a run of a store, which 'predict' and 'serve recognizer' can score with.

    \b
    Example:
      stal-cli models install first.stal --store store
    """
    from recognizer_svc.packed_models.install import install as install_model

    run_id = install_model(read_packed_model(model.absolute()), Store.open(store_url, create=True))
    click.echo(f"Installed as the run {run_id}.")


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to make; new or empty."
)
def export(model: Path, output: Path) -> None:
    """Write the packed MODEL's head and backbones as ONNX files, for programs without this one.

    head.onnx turns the features of a key frame and any number of boxes into scores; KIND.onnx, of each backbone in
    MODEL, turns a clip into features. Each is compared with torch before it is written. A head that looks at other
    key frames, and plugins, are refused. Needs the extra 'onnx'.

    \b
    Example:
      stal-cli models export first.stal --output first.onnx
    """
    from recognizer_svc.packed_models.onnx_export import TOLERANCE, export_onnx

    packed = read_packed_model(model.absolute())
    for name, difference in export_onnx(packed, output.absolute()).items():
        click.echo(f"Wrote {output / name}: differs from torch by {difference:.1g} (limit {TOLERANCE:g}).")
    for kind in packed.feature_spec.kinds:
        if packed.backbone_file(kind) is None:
            click.echo(f"Without {kind}.onnx: {model} holds no weights of that backbone.")
