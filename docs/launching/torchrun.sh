#!/bin/bash
# torchrun starts the ranks, one for each GPU: docs/launching/torchrun.sh CONFIG
# On each of two machines: NNODES=2 RDZV_ENDPOINT=node0:29400 docs/launching/torchrun.sh CONFIG
# NPROC_PER_NODE=2, say, where there are no GPUs.
set -euo pipefail
rendezvous=(--standalone)
if [ "${NNODES:-1}" != 1 ]; then
    rendezvous=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT")
    rendezvous+=(--rdzv-id "${RDZV_ID:-hqsam}")
fi
# No script stands between torchrun and the ranks: it would take the signals that are for them.
exec torchrun "${rendezvous[@]}" --nproc-per-node "${NPROC_PER_NODE:-gpu}" --max-restarts 3 \
    --no-python "${HQSAM:-hqsam}" train --resume "$@"
