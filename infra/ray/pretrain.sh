#!/bin/bash
# Pretraining on a Ray cluster (docs/distributed.md): from the project's folder, on a disk that all machines share, with RAY_ADDRESS naming the cluster's head.
#
#     ray start --head --port=6379                  # on the first machine
#     ray start --address=FIRST:6379                # on the others
#     RAY_ADDRESS=FIRST:6379 infra/ray/pretrain.sh --set machine.parallel.processes=8 --set machine.parallel.nodes=2
#
# Ray Train's TorchTrainer starts processes x nodes workers, each with a GPU where machine.device is cuda. Without RAY_ADDRESS
# a Ray of this machine starts for the time of the run.

set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-.venv/bin/python}" -m components.pretrain --set machine.parallel.launcher=ray "$@"
