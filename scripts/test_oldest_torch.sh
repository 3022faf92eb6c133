#!/usr/bin/env bash
# Run the tests of stores, heads, training and API with the oldest supported torch on the newest supported Python.
# Usage: scripts/test_oldest_torch.sh [PYTHON]   default python3.13; makes a virtual environment in build/
# Ends with 77 where there is no such Python, or that torch cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/oldest-torch
torch=(torch==2.11.0 torchvision==0.26.0)
left_out() {
  echo "left out: $1" >&2
  exit 77
}
mkdir -p build
rm -rf "$venv"
if [ $# -gt 0 ]; then pythons=("$1"); else pythons=(python3.13 "$HOME"/.pyenv/versions/3.13*/bin/python3.13); fi
for python in "${pythons[@]}"; do
  "$python" -m venv "$venv" 2>/dev/null && break
done
[ -x "$venv/bin/python" ] || left_out "there is no ${pythons[0]}"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --no-deps "${torch[@]}" || left_out "${torch[*]} cannot be had"
{
  grep -vE '^(torch|torchvision|triton|setuptools|nvidia-.*|cuda-.*)==' constraints.txt
  printf '%s\n' "${torch[@]}"
} >build/oldest-torch.txt
"${pip[@]}" --constraint build/oldest-torch.txt --editable '.[dev]'
"$venv/bin/python" -c 'import sys, torch; print("Python", sys.version.split()[0], "with torch", torch.__version__)'
"$venv/bin/python" -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup -q \
  tests/api tests/cache/test_any_store.py tests/cache/test_backbones_numerics.py tests/detector/test_service.py \
  tests/recognizer/test_{acar_head,linear_head,losses_and_schedule,training,distributed,joint_step}.py
