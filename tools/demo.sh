#!/usr/bin/env bash
# Trains supervised, FixMatch and UniMatch from 16 labelled synthetic scenes, on two processes, and compares them.
# Usage: bash tools/demo.sh [OUT] [SEED]
#   OUT   folder for shards, runs and results (default: runs/demo)
#   SEED  which scenes are labelled, and what the runs draw (default: 0)
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,5s/^# //p' "$0"; exit 0 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$root/runs/demo}")
seed=${2:-0}
if [ -e "$out/supervised" ] || [ -e "$out/fixmatch" ] || [ -e "$out/unimatch" ]; then
  echo "error: $out already holds a demo; remove it or name another folder: bash tools/demo.sh FOLDER" >&2
  exit 1
fi
source "$root/tools/venv.sh"
cd "$root"
export OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3
started=$SECONDS

echo "== 1/5 shards: 400 training and 100 validation scenes, 16 of the training scenes labelled"
python tools/make_shards.py --recipe synthetic --out "$out/shards" --overwrite
python tools/make_splits.py --shards "$out/shards" --subset train --count 16 --method stratified --seed "$seed" --out "$out/split"
python tools/check_shards.py "$out/shards" --picture "$out/scenes.png"

step=2
for method in supervised fixmatch unimatch; do
  echo "== $step/5 training $method"
  step=$((step + 1))
  accelerate launch --config_file launch/accelerate/cpu2.yaml -m unimatch.train \
    --config "configs/synthetic/$method.yaml" --set "out=$out/$method" --set "seed=$seed" \
    --set "data.shards=$out/shards" --set "data.labeled=$out/split/labeled.txt" --set "data.unlabeled=$out/split/unlabeled.txt"
done

echo "== 5/5 comparison"
for method in supervised fixmatch unimatch; do
  python -m unimatch.evaluate "$out/$method" --json "$out/$method/val.json"
done
python tools/compare.py "$out/supervised" "$out/fixmatch" "$out/unimatch" --out "$out"
echo
echo "Done in $((SECONDS - started)) s after the installation. Look at:"
echo "  $out/summary.md     the table above"
echo "  $out/curves.png     validation mIoU over steps"
echo "  $out/overlays.png   predictions side by side"
echo "  $out/scenes.png     some of the training scenes"
echo "  .venv/bin/tensorboard --logdir $out   losses, pseudo-labels, views"
