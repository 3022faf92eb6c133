"""Lint protos/*.proto and refuse a change that breaks the interface of the last release (protos/released.binpb).

`--release` makes the present interface the released one: run it with each release, after raising API_VERSION in
svc_common/version.py when the interface has changed. Works offline.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASED = Path("protos/released.binpb")


def buf(*words: str, root: Path) -> bool:
    """Run the buf of this environment; True when it finds nothing."""
    executable = Path(sys.executable).parent / "buf"
    if not executable.is_file():
        sys.exit(f"{executable} does not exist; install the dev extra (buf-bin).")
    return subprocess.run([str(executable), *words], cwd=root, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", action="store_true", help="write protos/released.binpb")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of buf.yaml; default: this repository")
    arguments = parser.parse_args()
    root: Path = arguments.root
    if arguments.release:
        # Without comments and positions: only the interface counts.
        if not buf("build", "--exclude-source-info", "--output", str(RELEASED), root=root):
            sys.exit(1)
        print(f"Wrote {RELEASED}.")
        return
    clean = buf("lint", root=root)
    kept = buf("breaking", "--against", str(RELEASED), root=root)
    if not kept:
        print(
            "The change breaks services and clients of the last release: add fields and calls instead, or start a new "
            "package (v2). See docs/security.md#versions.",
            file=sys.stderr,
        )
    if not (clean and kept):
        sys.exit(1)


if __name__ == "__main__":
    main()
