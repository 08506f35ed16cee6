#!/bin/sh
# A controller is a driver of the Ray cluster, and a driver's machine must be a node of it: here one without workers.
# When the controller ends, so does the container, and the node with it.
set -eu
ray start --address="$PEELBOUND_RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --disable-usage-stats
exec python -P -m peelbound.service.controller
