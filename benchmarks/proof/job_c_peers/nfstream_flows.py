"""A capture to rows of flows by nfstream: ``CAPTURE OUT``. No dissection, no statistics: its fastest setting."""

import csv
import sys

from nfstream import NFStreamer

streamer = NFStreamer(
    source=sys.argv[1],
    n_meters=1,
    n_dissections=0,
    statistical_analysis=False,
    accounting_mode=1,  # bytes from the IP header on
    idle_timeout=30,
    active_timeout=300,
)
with open(sys.argv[2], "w", newline="") as file:
    write = csv.writer(file).writerow
    for flow in streamer:
        write(
            (
                flow.protocol,
                flow.src_ip,
                flow.src_port,
                flow.dst_ip,
                flow.dst_port,
                flow.bidirectional_packets,
                flow.bidirectional_bytes,
            )
        )
