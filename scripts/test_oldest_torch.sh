#!/usr/bin/env bash
# Run the tests of cache, heads, training and API with the oldest supported torch on the newest supported Python.
# Usage: scripts/test_oldest_torch.sh [PYTHON]   default python3.13; makes a virtual environment in build/
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.13}
venv=build/oldest-torch
mkdir -p build
{
  grep -vE '^(torch|torchvision|triton|setuptools|nvidia-.*|cuda-.*)==' constraints.txt
  echo torch==2.11.0
  echo torchvision==0.26.0
} >build/oldest-torch.txt
test -x "$venv/bin/python" || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint build/oldest-torch.txt --editable '.[dev]'
"$venv/bin/python" -c 'import sys, torch; print("Python", sys.version.split()[0], "with torch", torch.__version__)'
"$venv/bin/python" -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup -q \
  tests/api tests/cache/test_any_store.py tests/cache/test_backbones_numerics.py tests/detector/test_service.py \
  tests/recognizer tests/services/test_recognizer_training.py
