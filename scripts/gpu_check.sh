#!/usr/bin/env bash
# Check a GPU machine that has Python and torch but no network (benchmarks/gpu_check.py says what is checked).
# Usage, from a checkout:
#   scripts/gpu_check.sh fetch WHEELS [3.12]    where there is a network: fetch what that machine lacks, for its Python
#   scripts/gpu_check.sh run WHEELS OUTPUT      there: install that beside its torch, and check
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
wheels=$2
case $1 in
  fetch)
    platforms=()
    for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17 2_12 2_5; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
    mkdir -p "$wheels" build
    grep -vE '^(torch|torchvision|triton|setuptools|nvidia-.*|cuda-.*)==' constraints.txt >build/gpu-check.txt
    pip=("${PYTHON:-python3}" -m pip --disable-pip-version-check)
    "${pip[@]}" download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "${3:-3.12}" \
      "${platforms[@]}" --requirement build/gpu-check.txt --dest "$wheels"
    "${pip[@]}" wheel --quiet --no-deps --wheel-dir "$wheels" .
    ;;
  run)
    venv=build/gpu-check
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv --system-site-packages "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps "$wheels"/*.whl
    "$venv/bin/python" -m benchmarks.gpu_check --output "$3" "${@:4}"
    ;;
esac
