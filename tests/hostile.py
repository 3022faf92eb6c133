"""A working folder whose files end every Python process that imports one of them."""

import sys
from pathlib import Path

# `stal-cli` as installed: a script, which Python starts without a look at the working folder.
STAL_CLI = str(Path(sys.executable).with_name("stal-cli"))

MODULES = (
    *("cli", "cache", "detector_svc", "protos", "recipes", "recognizer_svc"),
    *("stal", "stal_data", "stal_eval", "svc_common"),
    *("json", "logging", "multiprocessing", "random", "secrets", "socket", "tempfile", "tests"),
    *("av", "click", "grpc", "numpy", "PIL", "torch", "ultralytics", "zarr", "sitecustomize", "usercustomize"),
)


def hostile_folder(parent: Path) -> Path:
    """Return the folder `working` in `parent` with such files."""
    folder = parent / "working"
    folder.mkdir(exist_ok=True)
    for name in MODULES:
        (folder / f"{name}.py").write_text('raise SystemExit("code of the working folder runs")\n')
    (folder / "protos").mkdir(exist_ok=True)
    (folder / "protos" / "__init__.py").write_text('raise SystemExit("code of the working folder runs")\n')
    return folder
