#!/bin/sh
# Compiles the kernels into NUMBA_CACHE_DIR by doing what a service does: a stream over UDP through all stages that
# have kernels, and a capture's flows. Run while the image is built.
set -eu
cd "$(mktemp -d)"
streamspec demo --seconds 3 --json > demo.json
