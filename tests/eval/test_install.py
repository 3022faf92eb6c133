"""The package on its own: light to import, and at work where nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stal_data.errors import how_to_install

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"
FOREIGN = ("torch", "grpc", "zarr", "h5py", "av", "ultralytics", "cv2")


def run(code: str, folder: Path, **environment: str) -> str:
    """Run code in `folder`, which is the first place that Python imports from."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


EXTRA = ("pandas", "numba")  # of evaluation; who only draws on frames and makes pages, as `infer` does, needs neither


def test_importing_and_drawing_need_neither_services_nor_torch_nor_the_extra(tmp_path: Path) -> None:
    metrics = {"capacities": [50, 51], "mAP": [0.2, 0.3], "best": {"capacity": 51, "mAP": 0.3}, "mAP_at_50": 0.2}
    code = f"""
import pathlib, sys, stal_eval, stal_eval.figures, stal_eval.report
print([name for name in {(*FOREIGN, *EXTRA, "matplotlib")!r} if name in sys.modules])
stal_eval.figures.plot_capacity_curves({{"a": {metrics!r}}}, pathlib.Path({str(tmp_path)!r}, "curve.svg"))
print([name for name in {(*FOREIGN, *EXTRA)!r} if name in sys.modules])
"""
    assert run(code, ROOT) == "[]\n[]"
    assert (tmp_path / "curve.svg").stat().st_size > 0


@pytest.mark.parametrize("package", EXTRA)
def test_a_missing_package_of_the_extra_is_named_with_the_extra(package: str) -> None:
    modules = ["preparation", "scoring", "comparison", "table", "stored"]
    code = f"""
import importlib, sys
sys.modules[{package!r}] = None  # importing it fails
for module in {modules!r}:
    try:
        importlib.import_module("stal_eval." + module)
    except ModuleNotFoundError as error:
        print(error)
"""
    expected = f"Evaluation needs {package}, which is not installed; {how_to_install('evaluation')}"
    assert run(code, ROOT).splitlines() == [expected] * len(modules)


def test_kernels_run_where_compiled_code_cannot_be_kept(tmp_path: Path) -> None:
    package = tmp_path / "site" / "stal_eval"
    shutil.copytree(ROOT / "stal_eval", package, ignore=shutil.ignore_patterns("__pycache__"))
    # A file in place of the folder keeps even root from writing there.
    (package / "__pycache__").write_text("")
    # All kernels are declared, which is where numba refuses; one is compiled, which takes seconds each.
    code = f"""
import numpy as np
import stal_eval.comparison, stal_eval.scoring
from stal_eval.tie_kernels import count_rivals
assert stal_eval.__file__.startswith({str(tmp_path)!r})
print(count_rivals(np.zeros(2, np.int32), np.array([True, False]), np.ones(2), 1))
"""
    nowhere = "/dev/null/home"
    assert run(code, package.parent, PYTHONPATH=str(ROOT), HOME=nowhere, XDG_CACHE_HOME=nowhere) == "[2 2]"


def test_the_documented_lines_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (ROOT / "docs" / "evaluation.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) == 3
    names = {"small_untied_pred.csv.gz": "predictions.csv", "small_untied_gt.csv": "ground_truth.csv"}
    for name in (*names, "list_action.pbtxt"):
        shutil.copy(FIXTURES / name, tmp_path / names.get(name, name))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.startswith("Best(capacity=143, mean_ap=0.543")


def test_the_command_works_without_the_packages_of_other_extras(tmp_path: Path) -> None:
    missing = (*FOREIGN, "PIL", "matplotlib", "google", "psutil", "tensorboard", "timm")
    files = ("small_untied_pred.csv.gz", "small_untied_gt.csv", "list_action.pbtxt")
    options = ("--predictions", "--ground-truth", "--label-map")
    arguments = [text for pair in zip(options, (str(FIXTURES / name) for name in files), strict=True) for text in pair]
    code = f"""
import sys
for name in {missing!r}:
    sys.modules[name] = None  # importing it fails
from cli.main import root
root(["eval", *{arguments!r}, "--output", "results"], standalone_mode=False)
root(["eval", "compare", "results", "results", "--replicates", "10"], standalone_mode=False)
"""
    assert "B minus A" in run(code, tmp_path, PYTHONPATH=str(ROOT))
