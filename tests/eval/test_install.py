"""The package on its own: light to import, and at work where nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import stal_eval

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


def test_importing_it_needs_neither_services_nor_torch_nor_numba() -> None:
    names = (*FOREIGN, "numba", "matplotlib")
    code = f"import sys, stal_eval, stal_eval.annotate; print([name for name in {names!r} if name in sys.modules])"
    assert run(code, ROOT) == "[]"


def test_evaluating_and_drawing_pull_in_neither_services_nor_torch(tmp_path: Path) -> None:
    code = f"""
import sys, pathlib, stal_eval
from stal_eval.figures import plot_capacity_curves
f = {str(FIXTURES)!r}
r = stal_eval.evaluate(f + "/small_untied_pred.csv.gz", f + "/small_untied_gt.csv", f + "/list_action.pbtxt")
plot_capacity_curves({{"a": r.metrics()}}, pathlib.Path({str(tmp_path)!r}, "curve.svg"))
print([name for name in {FOREIGN!r} if name in sys.modules])
"""
    assert run(code, ROOT) == "[]"


def test_it_runs_where_compiled_code_cannot_be_kept(tmp_path: Path) -> None:
    package = tmp_path / "site" / "stal_eval"
    shutil.copytree(ROOT / "stal_eval", package, ignore=shutil.ignore_patterns("__pycache__"))
    # A file in place of the folder keeps even root from writing there.
    (package / "__pycache__").write_text("")
    code = f"""
import stal_eval
assert stal_eval.__file__.startswith({str(tmp_path)!r})
f = {str(FIXTURES)!r}
r = stal_eval.evaluate(f + "/small_untied_pred.csv.gz", f + "/small_untied_gt.csv", f + "/list_action.pbtxt")
print(r.best)
"""
    nowhere = "/dev/null/home"
    printed = run(code, package.parent, PYTHONPATH=str(ROOT), HOME=nowhere, XDG_CACHE_HOME=nowhere)
    files = (FIXTURES / name for name in ("small_untied_pred.csv.gz", "small_untied_gt.csv", "list_action.pbtxt"))
    assert printed == str(stal_eval.evaluate(*files).best)


def test_the_documented_lines_of_python_run(tmp_path: Path) -> None:
    code = (ROOT / "docs" / "evaluation.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) == 3
    names = {"small_untied_pred.csv.gz": "predictions.csv", "small_untied_gt.csv": "ground_truth.csv"}
    for name in (*names, "list_action.pbtxt"):
        shutil.copy(FIXTURES / name, tmp_path / names.get(name, name))
    assert run(code, tmp_path, PYTHONPATH=str(ROOT)).startswith("Best(capacity=143, mean_ap=0.543")


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
