#!/usr/bin/env bash
# sbatch tuning/cluster/slurm.sh    (from the repository, with KBLOCKS_STORAGE in a private file)
# Every task is a machine that works for the search; the first one begins it.
#SBATCH --job-name=kblocks
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=kblocks-%A-%a.log
set -euo pipefail

# The storage's URL has a password: a file that only you can read (chmod 600), never a command's
# argument, which everyone on the machine can see. It holds the line
#   export KBLOCKS_STORAGE=postgresql+psycopg://USER:PASSWORD@DATABASE_HOST/kblocks
source "${KBLOCKS_SECRETS:-$HOME/.config/kblocks/storage.sh}"
export CHECKPOINTS="${CHECKPOINTS:-$SLURM_SUBMIT_DIR/runs/cluster/checkpoints}"
cd "$SLURM_SUBMIT_DIR"

# Weights and studies outlive a job that is requeued: the same line goes on.
if [ "$SLURM_ARRAY_TASK_ID" = 0 ]; then
  exec .venv/bin/kblocks search tuning/cluster.py
fi
for _ in $(seq 60); do # until the first task has begun the search
  .venv/bin/kblocks status cluster >/dev/null 2>&1 && break
  sleep 10
done
exec .venv/bin/kblocks worker tuning/cluster.py
