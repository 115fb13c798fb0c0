#!/bin/bash
# mpirun starts the ranks: docs/launching/mpirun.sh 2 CONFIG
# HOSTS=node0:8,node1:8 spreads them over machines; the first of them becomes the master.
set -euo pipefail
ranks=$1
shift
export MASTER_ADDR=127.0.0.1 MASTER_PORT=${MASTER_PORT:-29500}
hosts=()
if [ -n "${HOSTS:-}" ]; then
    MASTER_ADDR=${HOSTS%%[:,]*}
    hosts=(--host "$HOSTS")
fi
variables=(-x MASTER_ADDR -x MASTER_PORT)
# MPICH and Intel MPI name the option otherwise.
if [[ $(mpirun --version 2>&1) != *"Open MPI"* ]]; then
    variables=(-genvlist MASTER_ADDR,MASTER_PORT)
fi
exec mpirun -n "$ranks" "${hosts[@]}" "${variables[@]}" "${HQSAM:-hqsam}" train "$@"
