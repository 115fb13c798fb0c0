#!/bin/bash
# Slurm starts one launcher on each machine: sbatch docs/launching/sbatch_launch.sh CONFIG
#SBATCH --job-name=hqsam
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@120
#SBATCH --requeue --open-mode=append
set -euo pipefail
# Since Slurm 22.05, srun does not take --cpus-per-task from the job: each task would get one core.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi
# A job that is queued again, or submitted again, goes on; where there is no run it begins. A command
# behind `--` has to see to that itself.
[[ ${1:-} == -- ]] || set -- --resume "$@"
# Not through `head`, whose early end would end `scontrol`, and so this script, now and then.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}
# LAUNCH_RANKS: `--procs 2`, say, where there are no GPUs.
export LAUNCH=${LAUNCH:-launch} LAUNCH_RANKS=${LAUNCH_RANKS:---gpus auto} HEAD=$head:29400
# TERM two minutes before the limit goes to the tasks, not to this script (that would be B:TERM): a srun
# that gets TERM, as from a trap here, kills its tasks at once. The launcher and its ranks get it
# together, which counts as one request: the ranks save and end.
exec srun --kill-on-bad-exit=0 bash -c '
    exec "$LAUNCH" $LAUNCH_RANKS --max-restarts 3 --nnodes "$SLURM_NNODES" \
        --node-rank "$SLURM_NODEID" --rdzv-endpoint "$HEAD" --rdzv-id "$SLURM_JOB_ID" "$@"
' launch "$@"
