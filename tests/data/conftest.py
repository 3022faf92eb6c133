"""Videos that several tests of imports read."""

from pathlib import Path

import pytest

from tests.data.tool_files import FPS
from tests.data.videos import constant, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of each video of the scenes, 80x48 at 25 frames a second."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "below").mkdir()
    write_video(folder / "street.mp4", constant(FPS, 125), rate=FPS)
    write_video(folder / "below" / "yard.mp4", constant(FPS, 125), rate=FPS)
    return folder
