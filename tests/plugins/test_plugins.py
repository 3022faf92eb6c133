"""A head, a backbone and a format of another package: used where they are allowed, and not even imported elsewhere."""

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.backbones.load import load_backbone
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from cli.main import root
from recognizer_svc.packed_models.description import read_packed_model
from recognizer_svc.packed_models.onnx_export import export_onnx
from recognizer_svc.packed_models.pack import Belongings, pack_run
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import Predictor
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.dataset import Dataset
from stal_data.errors import InputError
from stal_data.plugins import VARIABLE, allow_plugins
from tests.data.folders import write_small_dataset
from tests.recognizer.toy_store import make_store

NAMES = {
    "heads": ("counting", "COUNTING"),
    "backbones": ("blocks", "BLOCKS"),
    "formats": ("label_first", "LABEL_FIRST"),
}
MODULE = "another_package_with_plugins"
RECIPE = """
name: plugin
data: {dataset: toy, train_split: train}
validation: {split: test}
head: {kind: counting, step: 2}
loss: {kind: sigmoid}
optimizer: {kind: adamw, learning_rate: 0.1}
schedule: {kind: cosine}
training: {epochs: 1, batch_clips: 8}
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with plugins, as pip would have installed it."""
    site = tmp_path / "site"
    (site / "toys-1.0.dist-info").mkdir(parents=True)
    (site / "toys-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    groups = [f"[stal.{group}]\n{name} = {MODULE}:{attribute}\n" for group, (name, attribute) in NAMES.items()]
    (site / "toys-1.0.dist-info" / "entry_points.txt").write_text("\n".join(groups))
    (site / f"{MODULE}.py").write_text((Path(__file__).parent / "toy_package.py").read_text())
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_a_head_is_trained_and_scores(tmp_path: Path) -> None:
    allow_plugins(["counting"])
    store = make_store(tmp_path / "store", train=7, test=7)
    run = RunDir(store.runs_dir / "plugin")
    run.root.mkdir(parents=True)
    run.recipe.write_text(parse_recipe(RECIPE, ["head.step=0.25"]).to_yaml())
    assert train_run(run, Ranks())
    predictor = Predictor.load(run.root, device="cpu")
    assert predictor.checkpoint.recipe.head.model_dump() == {"kind": "counting", "step": 0.25}
    pack_run(run, tmp_path / "packed", Belongings())
    with pytest.raises(InputError, match=r"code of the plugin 'counting' can be traced is unknown"):
        export_onnx(read_packed_model(tmp_path / "packed"), tmp_path / "exported")
    with pytest.raises(InputError, match=r"head\.step is 'two': Input should be a valid number"):
        parse_recipe(RECIPE, ["head.step=two"])


def test_a_backbone_fills_the_cache_and_a_format_is_read(tmp_path: Path) -> None:
    allow_plugins(["blocks", "label_first"])
    folder = write_small_dataset(tmp_path / "data")
    (folder / "dataset.yaml").write_text((folder / "dataset.yaml").read_text().replace("chaotic_world", "label_first"))
    (folder / "train.csv").write_text("2,a,1.2,0.1,0.2,0.3,0.4\n")
    split = Dataset.open(folder).split("train")
    assert [str(item.key) for item in split.key_frames] == ["a,0001.2"]
    assert split.key_frames[0].labels == (frozenset({2}),)
    store = Store.open(tmp_path / "store", create=True)
    [features] = precompute(split, store, PrecomputeOptions(backbones=[load_backbone("blocks", weights="random:1")]))
    assert features.read([0])["blocks"].shape == (1, 3, 4, 6)


@pytest.mark.parametrize("group", NAMES)
def test_a_plugin_that_is_not_allowed_is_named_and_not_imported(tmp_path: Path, group: str) -> None:
    name, _ = NAMES[group]
    allow_plugins([other for other, _ in NAMES.values() if other != name])
    folder = write_small_dataset(tmp_path / "data")
    (folder / "dataset.yaml").write_text((folder / "dataset.yaml").read_text().replace("chaotic_world", "label_first"))
    uses = {
        "heads": lambda: parse_recipe(RECIPE),
        "backbones": lambda: load_backbone("blocks", weights="random:1"),
        "formats": lambda: Dataset.open(folder),
    }
    with pytest.raises(InputError, match=rf"'{name}' is a plugin of toys, .*stal-cli --allow-plugin {name}"):
        uses[group]()
    assert MODULE not in sys.modules


def test_the_command_line_allows_plugins_for_one_command(tmp_path: Path) -> None:
    folder = write_small_dataset(tmp_path / "data")
    (folder / "dataset.yaml").write_text((folder / "dataset.yaml").read_text().replace("chaotic_world", "label_first"))
    (folder / "train.csv").write_text("2,a,1.2,0.1,0.2,0.3,0.4\n")
    words = ["dataset", "info", str(folder), "--json"]
    refused = CliRunner().invoke(root, words)
    assert refused.exit_code != 0
    assert "--allow-plugin label_first" in str(refused.exception)
    (folder / "test.csv").write_text("1,b,2,0.1,0.2,0.3,0.4\n")
    done = CliRunner().invoke(root, ["--allow-plugin", "label_first", *words])
    assert done.exit_code == 0, done.output


def test_a_plugin_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "site" / f"{MODULE}.py").write_text("import something_that_is_not_installed")
    allow_plugins(["counting"])
    with pytest.raises(InputError, match=r"'counting' of toys does not load: ModuleNotFoundError.*something_that"):
        parse_recipe(RECIPE)


def train_from_file(tmp_path: Path, source: str, variable: str) -> RunDir:
    file = tmp_path / "my head.py"
    file.write_text(source)
    allow_plugins([f"{file}:{variable}"])
    store = make_store(tmp_path / "store", train=7, test=7)
    run = RunDir(store.runs_dir / "mine")
    run.root.mkdir(parents=True)
    run.recipe.write_text(parse_recipe(RECIPE, ["head={kind: MY_HEAD, channels: 5}"]).to_yaml())
    assert train_run(run, Ranks())
    return run


def test_the_head_of_the_documentation_is_trained_from_its_file(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "heads.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    run = train_from_file(tmp_path, source, "MY_HEAD")
    predictor = Predictor.load(run.root, device="cpu")
    assert predictor.checkpoint.recipe.head.model_dump() == {"kind": "MY_HEAD", "channels": 5}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import something_that_is_not_installed", r"my head\.py' does not load: ModuleNotFoundError.*something_that"),
        ("ANOTHER = 1", r"my head\.py' has no variable MY_HEAD"),
        ("MY_HEAD = 1", r"kind is 'MY_HEAD', but must be one of 'acar', 'linear', 'relation'"),
    ],
)
def test_a_file_without_the_head_is_named(tmp_path: Path, source: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        train_from_file(tmp_path, source, "MY_HEAD")


@pytest.mark.parametrize("name", ["missing.py:HEAD", "folder:HEAD", "file.txt:HEAD", "file.py:", "file.py:a.b"])
def test_what_is_no_file_and_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for file in ("file.py", "file.txt"):
        (tmp_path / file).write_text("HEAD = 1")
    with pytest.raises(InputError, match=rf"--allow-plugin {name} must be the name of an installed plugin or FILE"):
        allow_plugins([name])
