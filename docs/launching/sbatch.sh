#!/bin/bash
# Slurm starts one task for each GPU: sbatch docs/launching/sbatch.sh CONFIG
#SBATCH --job-name=hqsam
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@120
#SBATCH --requeue --open-mode=append
# --gpus-per-node and not --gpus-per-task: every task must see all GPUs of its node and takes the
# one of its local rank. TERM two minutes before the limit goes to the tasks, not to this script (that
# would be B:TERM): the ranks save and end. A srun that gets TERM itself kills its tasks at once.
set -euo pipefail
# Since Slurm 22.05, srun does not take --cpus-per-task from the job: each task would get one core.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
# --resume: a job that is queued again, or submitted again, goes on; where there is no run it begins.
exec srun --kill-on-bad-exit=1 "${HQSAM:-hqsam}" train "$@" --resume
