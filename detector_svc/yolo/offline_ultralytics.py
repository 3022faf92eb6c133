"""Keeps Ultralytics from downloading, installing and reporting anything.

Its switches are environment variables read once at import, so `import_ultralytics` must run before the first import
of ultralytics in a process. Every module of this package that uses ultralytics calls it and imports the rest after.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from stal_data.errors import ConflictError

_SWITCHES = {
    "YOLO_OFFLINE": "1",  # no connectivity probe, no update check, no analytics
    "YOLO_AUTOINSTALL": "0",  # a missing requirement is an error, not a pip call
    "YOLO_VERBOSE": "0",
    "ULTRALYTICS_SAFE_LOAD": "1",  # checkpoints are read with weights_only, so that loading one runs no code
}


def import_ultralytics() -> str:
    """Import ultralytics with everything that reaches out turned off; return its version."""
    if "ultralytics" not in sys.modules:
        _import_isolated()
    import ultralytics
    from ultralytics.utils import AUTOINSTALL, ONLINE, SAFE_LOAD

    if ONLINE or AUTOINSTALL or not SAFE_LOAD:
        raise ConflictError("ultralytics was imported before detector_svc could turn its network access off.")
    return str(ultralytics.__version__)


def _import_isolated() -> None:
    # A folder of our own: the user's settings may turn reporting on, and ours must not overwrite them.
    config = tempfile.mkdtemp(prefix="stal-ultralytics-")
    atexit.register(shutil.rmtree, config, ignore_errors=True)
    os.environ.update(_SWITCHES, YOLO_CONFIG_DIR=config)
    import torch
    from PIL import Image

    open_image = Image.open
    chosen, threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    from ultralytics.utils import SETTINGS

    integrations = {key: False for key, value in SETTINGS.items() if value is True}
    SETTINGS.update(integrations)  # type: ignore[no-untyped-call]  # `sync` and the experiment trackers
    Image.open = open_image  # theirs wants to install a HEIF decoder when an image is damaged
    # The import limits torch to one thread; only the operator decides that.
    torch.set_num_threads(threads)
    if chosen is None:
        os.environ.pop("OMP_NUM_THREADS", None)


def provide_font() -> None:
    """Put a font where ultralytics looks before it would download one; training asks for it even without plots."""
    import matplotlib

    target = Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics" / "Arial.ttf"
    if not target.exists():
        shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", target)
