#!/usr/bin/env bash
# Trains supervised, FixMatch and UniMatch from 8 labelled synthetic scenes, on two processes, and compares them.
# Usage: bash tools/demo.sh [OUT] [SEED]
#   OUT   folder for shards, runs and results (default: runs/demo)
#   SEED  which scenes are labelled, and what the runs draw (default: 0)
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,5s/^# //p' "$0"; exit 0 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$root/runs/demo}")
seed=${2:-0}
methods=(supervised fixmatch unimatch)
if [ -e "$out/supervised" ] || [ -e "$out/fixmatch" ] || [ -e "$out/unimatch" ]; then
  echo "error: $out already holds a demo; remove it or name another folder: bash tools/demo.sh FOLDER" >&2
  exit 1
fi
source "$root/tools/venv.sh"
cd "$root"
export OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3
started=$SECONDS

echo "== 1/3 shards: 400 training and 100 validation scenes, 8 of the training scenes labelled"
python tools/make_shards.py --recipe synthetic --out "$out/shards" --overwrite
python tools/make_splits.py --shards "$out/shards" --subset train --count 8 --method stratified --seed "$seed" --out "$out/split"
python tools/check_shards.py "$out/shards" --picture "$out/scenes.png"

echo "== 2/3 training: ${methods[*]}"
# One start for all three: to start two processes takes as long as 75 steps of the baseline.
for method in "${methods[@]}"; do
  printf 'include: "%s"\nout: "%s"\n' "$root/configs/synthetic/$method.yaml" "$out/$method" >"$out/$method.yaml"
done
runs=("${methods[@]/#/$out/}")
unimatch train --launch cpu2 --config "${runs[@]/%/.yaml}" --set "seed=$seed" --set "data.shards=$out/shards" \
  --set "data.labeled=$out/split/labeled.txt" --set "data.unlabeled=$out/split/unlabeled.txt"

echo "== 3/3 comparison"
python tools/compare.py "${runs[@]}" --out "$out"
echo
echo "Done in $((SECONDS - started)) s after the installation. Look at:"
echo "  $out/summary.md     the table above: the last step of each run"
echo "  $out/overlays.png   predictions side by side"
echo "  $out/curves.png     validation mIoU over steps"
echo "  $out/scenes.png     some of the training scenes"
echo "  .venv/bin/tensorboard --logdir $out   losses, pseudo-labels, views"
