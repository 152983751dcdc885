#!/usr/bin/env bash
# Trains one run on TPU slices of a GKE cluster through XPK:
#
#     NAME=pets CLUSTER=tpus TYPE=v5litepod-16 STORAGE=share launch/gke_xpk.sh --config=configs/unet_pets.py --workdir=runs/pets
#
# Needs xpk, a cluster made by it, project and zone in the config of gcloud, and a Filestore share that `xpk storage create` or
# `attach` has mounted at /share. The folder dense-prediction of the share has this repository, its .venv, the data and the runs.
# XPK starts all processes again after a stop (75) or a kill, at most RESTARTS times, but not after a failure (1).
set -eu
: "${NAME:?}" "${CLUSTER:?}" "${TYPE:?}" "${STORAGE:?}" "${1:?the flags of main.py}"
printf -v flags ' %q' "$@"
exec xpk workload create \
    --workload="$NAME" \
    --cluster="$CLUSTER" \
    --tpu-type="$TYPE" \
    --num-slices="${SLICES:-1}" \
    --storage="$STORAGE" \
    --docker-image="${IMAGE:-python:3.11}" \
    --max-restarts="${RESTARTS:-100}" \
    --restart-on-exit-codes=75 \
    --termination-grace-period-seconds=60 \
    --command="cd ${FOLDER:-/share/dense-prediction} && exec .venv/bin/python main.py$flags"
