#!/bin/bash
#SBATCH --job-name=spec-opt
#SBATCH --ntasks=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
# One worker per task on a study: sbatch study.sh my_study.toml. Submit it again to continue.
set -euo pipefail
study=${1:?usage: sbatch study.sh STUDY}

# Its password belongs in ~/.pgpass (mode 600): other users can see environments and command lines.
export SPEC_OPT_STORAGE=${SPEC_OPT_STORAGE:-postgresql://spec_opt@db.example/spec_opt}
export SPEC_OPT_CACHE=${SPEC_OPT_CACHE:-$HOME/spec-opt} # all nodes share it
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
mkdir -p logs

srun --ntasks=1 spec-opt train "$study"
# A worker that dies does not take the others with it.
srun --kill-on-bad-exit=0 --output=logs/worker-%t.log spec-opt worker "$study"
