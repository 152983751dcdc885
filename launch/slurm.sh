#!/bin/bash
# Trains one run on GPU nodes of a SLURM cluster, one process per GPU:
#
#     sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --time=240 \
#         launch/slurm.sh --config=configs/unet_pets.py --workdir=runs/pets
#
# Needs this folder, its .venv (requirements-cuda.txt), the data and the runs on a file system that all nodes share. A run may
# take longer than --time: three minutes before the end all processes save, and the job goes back into the queue. It also does so
# after a preemption or a kill, at most RESTARTS times (100), but not after a failure.
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append

gpus=${SLURM_GPUS_ON_NODE:-0}
if [[ ${SLURM_NTASKS_PER_NODE:-} != "$gpus" ]]; then
    echo "error: --ntasks-per-node=${SLURM_NTASKS_PER_NODE:-} with $gpus GPUs per node; set both to the same number" >&2
    exit 1
fi

# Every task sees all GPUs of its node, and jax takes the one of SLURM_LOCALID. SLURM sends a signal to every process of the
# step, which this bash must survive. srun returns the highest code of all tasks, so a failure becomes 255, above 75 and a kill.
srun --gpu-bind=none --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" --kill-on-bad-exit=0 --wait=0 bash -c '
    trap : USR1 TERM
    .venv/bin/python main.py "$@"
    code=$?
    ((code == 0 || code == 75 || code > 128)) || { echo "main.py ended with code $code" >&2 && code=255; }
    exit $code' main.py "$@"
code=$?

((code == 75 || (code > 128 && code < 160))) || exit $((code && 1)) # from 160 on: a failure or no memory left (253)
if ((${SLURM_RESTART_COUNT:-0} >= ${RESTARTS:-100})); then
    echo "stopped: not finished after $SLURM_RESTART_COUNT restarts; submit the job again to go on" >&2
    exit 75
fi
scontrol requeue "$SLURM_JOB_ID"
exit 75
