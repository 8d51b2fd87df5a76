#!/usr/bin/env bash
# sbatch tuning/cluster/slurm.sh [RUN.py] [options of `kblocks search`]
# From the repository, with its virtual environment in .venv. Without RUN.py: tuning/cluster.py.
# Every task of the array is a machine that works for the search; the first one begins it. The same
# line goes on with a search that was cut short, `sbatch --array=0-31 ...` with more machines.
#SBATCH --job-name=kblocks
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=kblocks-%A-%a.log
set -euo pipefail

# The storage's URL has a password: a file that only you can read (chmod 600), never a command's
# argument, which everyone on the machine can see. It holds the line
#   export KBLOCKS_STORAGE=postgresql+psycopg://USER:PASSWORD@DATABASE_HOST/kblocks
source "${KBLOCKS_SECRETS:-$HOME/.config/kblocks/storage.sh}"
cd "$SLURM_SUBMIT_DIR"
PATH=$PWD/.venv/bin:$PATH

run=${1:-tuning/cluster.py}
name=$(basename "$run" .py) # of the search: a run file gives it its own name
set -- "$run" "${@:2}"

# Weights and trials outlive a task that is requeued: the same line goes on.
if [ "$SLURM_ARRAY_TASK_ID" = "$SLURM_ARRAY_TASK_MIN" ]; then
  exec kblocks search "$@"
fi
for _ in $(seq 60); do # until the first task has begun the search
  kblocks status "$name" >/dev/null 2>&1 && break
  sleep 10
done
exec kblocks worker "$@"
