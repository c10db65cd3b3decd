"""Flows of an interface by nfstream: ``INTERFACE OUT BUFFER_BYTES``. Ends at SIGINT; idle flows end after a second."""

import csv
import sys

from nfstream import NFStreamer

streamer = NFStreamer(
    source=sys.argv[1],
    n_meters=0,  # as many as there are cores
    n_dissections=0,
    statistical_analysis=False,
    accounting_mode=1,
    idle_timeout=1,
    active_timeout=300,
    socket_buffer_size=int(sys.argv[3]),
)
with open(sys.argv[2], "w", newline="", buffering=1) as file:
    write = csv.writer(file).writerow
    for flow in streamer:
        counts = flow.bidirectional_packets, flow.bidirectional_bytes
        write((flow.protocol, flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port, *counts))
