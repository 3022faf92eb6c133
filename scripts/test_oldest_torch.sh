#!/usr/bin/env bash
# Run the tests of stores, heads, training and API with the oldest supported torch on the newest supported Python.
# Usage: scripts/test_oldest_torch.sh [PYTHON]   default python3.13; makes a virtual environment in build/
# Ends with 77 where there is no such Python, or its packages cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/oldest-torch
mkdir -p build
for python in "${1:-python3.13}" "$HOME"/.pyenv/versions/3.13*/bin/python3.13; do
  "$python" -m venv "$venv" 2>/dev/null && break
done
{
  grep -vE '^(torch|torchvision|triton|setuptools|nvidia-.*|cuda-.*)==' constraints.txt
  echo torch==2.11.0
  echo torchvision==0.26.0
} >build/oldest-torch.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint build/oldest-torch.txt \
  --editable '.[dev]' ||
  {
    echo "left out: Python 3.13, torch 2.11 or another package cannot be had here" >&2
    exit 77
  }
"$venv/bin/python" -c 'import sys, torch; print("Python", sys.version.split()[0], "with torch", torch.__version__)'
"$venv/bin/python" -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup -q \
  tests/api tests/cache/test_any_store.py tests/cache/test_backbones_numerics.py tests/detector/test_service.py \
  tests/recognizer/test_{acar_head,linear_head,losses_and_schedule,training,distributed,joint_step}.py
