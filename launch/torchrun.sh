#!/usr/bin/env bash
# Starts a training with torchrun on this host; for several hosts, start it on each with its own NODE_RANK.
# Usage: [NAME=VALUE ...] bash "$(unimatch where launch/torchrun)" PROCESSES --config RUN.yaml [--resume] ...
#   PROCESSES  on this host: one a GPU, or any number on CPUs
#   ZERO       1, 2, 3 or 3_offload: DeepSpeed with launch/deepspeed/zero$ZERO.json (default: DDP, quicker for all it can hold)
#   FSDP       1: FSDP2 over all processes; any other number: so many replicas, each in parts over as many processes
#   RESTARTS   how often all processes start again after one has failed; give --resume too (default: 0)
#   NODES NODE_RANK MASTER PORT   how many hosts, this one's number, the first one's address, its free port
#   RUN_ID     a name that is the same on all hosts and no other run's there (default: unimatch)
#   ADDRESS    this host's own address, where its name does not resolve to one that the others reach
#   INTERFACE  network interface of that address, where the hosts have several
set -euo pipefail
if [ $# -eq 0 ] || [ "$1" = -h ] || [ "$1" = --help ]; then sed -n '2,11s/^# //p' "$0"; exit 0; fi
processes=$1
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
nodes=${NODES:-1} node_rank=${NODE_RANK:-0} restarts=${RESTARTS:-0}

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# A restart makes a new group; with the launcher's own store it would meet the keys of the old one.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
if [ -n "${ZERO:-}" ]; then
  export ACCELERATE_USE_DEEPSPEED=true ACCELERATE_DEEPSPEED_CONFIG_FILE="$root/launch/deepspeed/zero$ZERO.json"
fi
if [ -n "${FSDP:-}" ]; then
  export ACCELERATE_USE_FSDP=true FSDP_VERSION=2
  if [ "$FSDP" -ne 1 ]; then
    export ACCELERATE_USE_PARALLELISM_CONFIG=true PARALLELISM_CONFIG_DP_REPLICATE_SIZE="$FSDP"
    export PARALLELISM_CONFIG_DP_SHARD_SIZE=$((nodes * processes / FSDP))
  fi
fi
if [ -n "${INTERFACE:-}" ]; then
  export GLOO_SOCKET_IFNAME="$INTERFACE" NCCL_SOCKET_IFNAME="$INTERFACE"
fi

if [ "$nodes" -eq 1 ]; then
  meet=(--standalone)
else
  : "${MASTER:?several hosts need MASTER, the address of the first}"
  if [ "$node_rank" -eq 0 ]; then is_host=true; else is_host=false; fi
  meet=(--nnodes "$nodes" --rdzv-id "${RUN_ID:-unimatch}" --rdzv-backend c10d
    --rdzv-endpoint "$MASTER:${PORT:-29500}" --rdzv-conf "is_host=$is_host")
fi
if [ -n "${ADDRESS:-}" ]; then meet+=(--local-addr "$ADDRESS"); fi
exec torchrun "${meet[@]}" --nproc-per-node "$processes" --max-restarts "$restarts" \
  -m unimatch.train "$@"
