#!/usr/bin/env bash
# Trains one run on all workers of a Cloud TPU slice, and starts it again until it has finished:
#
#     NAME=pets ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite SHARE=10.0.0.2:/share \
#         launch/tpu_pod.sh --config=configs/unet_pets.py --workdir=runs/pets
#
# Needs gcloud with a project, and an NFS share (Filestore) in the network of the slice. The folder dense-prediction of the share
# has this repository, its .venv, the data and the runs. A missing or preempted slice is made again, as a spot slice; SPOT= (empty)
# makes it on demand. Ends with 0 when the run has finished, with the code of main.py when it has failed, and with 75 after RESTARTS
# more starts. Ctrl-C ends main.py on all workers; the same command continues from the newest checkpoint.
set -uo pipefail
: "${NAME:?}" "${ZONE:?}" "${TYPE:?}" "${VERSION:?}" "${SHARE:?}" "${1:?the flags of main.py}"
spot=${SPOT---spot}
folder=${FOLDER:-/share/dense-prediction}
restarts=${RESTARTS:-100}
pause=${PAUSE:-60} # seconds before the next try
ended="main.py ended with code"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM

slice() { gcloud compute tpus tpu-vm "$1" "$NAME" --zone="$ZONE" "${@:2}"; }

make_slice() { # returns when the slice is ready
    while true; do
        if state=$(slice describe --format='value(state)' 2>"$log"); then
            case $state in
            READY) return ;;
            PREEMPTED | TERMINATED | STOPPED) echo "slice $NAME: $state" && slice delete --quiet || sleep "$pause" ;;
            *) sleep "$pause" ;;
            esac
        elif ! grep -q NOT_FOUND "$log"; then
            cat "$log" >&2
            exit 1
        elif ! slice create --accelerator-type="$TYPE" --version="$VERSION" $spot 2>&1 | tee "$log"; then
            grep -Eq 'INVALID_ARGUMENT|PERMISSION_DENIED|unrecognized arguments' "$log" && exit 1
            sleep "$pause" # no capacity at present
        fi
    done
}

printf -v flags ' %q' "$@"
for ((start = 0; start <= restarts; start++)); do
    make_slice
    # gcloud repeats a command after a broken connection, when the other workers have ended. A mark makes it run only once.
    remote="mkdir /tmp/start-$(date +%s)-$$-$start || exit 75; mountpoint -q /share || { sudo apt-get update -q &&"
    remote+=" sudo apt-get -o DPkg::Lock::Timeout=300 install -q -y nfs-common && sudo mkdir -p /share &&"
    remote+=" sudo mount -t nfs $SHARE /share; } || exit 75; cd $folder && .venv/bin/python main.py$flags;"
    remote+=" code=\$?; echo \"$ended \$code\"; exit \$code"
    # -tt: main.py ends with its connection. gcloud returns the code of the first worker that has not ended with 0.
    if slice ssh --worker=all --command="$remote" -- -tt </dev/null 2>&1 | tee "$log"; then
        echo "finished; the slice still costs: gcloud compute tpus tpu-vm delete $NAME --zone=$ZONE"
        exit 0
    fi
    # 75 is a stop, 129 to 159 a kill. Any other code is a failure.
    failed=$(grep -aoE "$ended [0-9]+" "$log" | grep -oE '[0-9]+$' | grep -vxE '0|75|129|1[3-5][0-9]' | head -n 1)
    [[ -n $failed ]] && exit "$failed"
    sleep "$pause"
done
echo "stopped: not finished after $restarts restarts; start the same command again to go on"
exit 75
