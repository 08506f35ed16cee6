#!/bin/sh
# A controller is a driver of the Ray cluster, and a driver's machine must be a node of it: here one without workers.
# When the controller ends, so does the container, and the node with it.
set -eu
# The shell is process 1, which hears no signal without a trap, and it looks at a trap only while it waits.
trap 'kill "$!"; exit 0' TERM INT
python -P -m peelbound.service.controller.ray_head &
wait "$!"
# One try, should the head have ended since it was asked: by default there are 20, of 41 s each.
RAY_gcs_server_port_wait_time_s=1 \
    ray start --address="$PEELBOUND_RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --disable-usage-stats &
wait "$!"
exec python -P -m peelbound.service.controller
