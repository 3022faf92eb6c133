#!/usr/bin/env bash
# A real street video through the whole system: a real person detector, SlowFast-R50, a video ViT and an ACAR head.
#
#   scripts/fetch_real_inputs.sh && scripts/real_input.sh [OUTPUT]
#
# No published backbone or head weights can be downloaded, so both backbones are random and the head is trained for
# one epoch on a few synthetic videos: the boxes are real, the action scores mean nothing. With your own weights put
# their files in place of `random:0` and name your own run.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v stal-cli >/dev/null || export PATH="$PWD/.venv/bin:$PATH"
output=${1:-real-out}
backbones=(--slowfast random:0 --slowfast-preset r50 --vit random:0 --vit-preset narrow)

if ! stal-cli runs list --store "$output/store" 2>/dev/null | grep -q untrained; then
  [ -e "$output/data" ] || stal-cli dataset synth "$output/data" --seed 0 --train-videos 2 --test-videos 1
  stal-cli precompute "$output/data" --split train --store "$output/store" "${backbones[@]}"
  stal-cli train acar --store "$output/store" --run-id untrained \
    --set training.epochs=1 --set validation.split=null
fi
stal-cli infer downloads/bikes.mp4 --store "$output/store" --run untrained "${backbones[@]}" \
  --detector-weights downloads/best.pt --classes 0,1 --image-size 480x640 --min-score 0 --output "$output/bikes"
