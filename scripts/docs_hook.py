"""For `make docs`: adds to the site what the pages of docs/ link to outside that folder."""

import logging
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]

# Otherwise it names each module.
logging.getLogger("mkdocs.plugins.api-autonav").setLevel(logging.WARNING)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add results and interfaces under their paths in the repository."""
    for path in sorted([*_ROOT.glob("benchmarks/results/*.md"), *_ROOT.glob("protos/*.proto")]):
        files.append(File.generated(config, path.relative_to(_ROOT).as_posix(), abs_src_path=str(path)))


def on_page_markdown(markdown: str, **_: object) -> str:
    """Correct the links between them and docs/, which is the root of the site."""
    outwards = re.sub(r"\]\(\.\./(?=(?:\.\./)*(?:benchmarks|protos)/)", "](", markdown)
    return outwards.replace("](../../docs/", "](../../")
