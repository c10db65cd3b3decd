"""streamspec: a service for streams of network packets that tunes itself while it runs.

The map of the code, from the bottom up; a package imports only what stands before it::

    core        words and contracts: segment layout, interfaces, errors, units. No I/O.
    telemetry   logging.
    engine      arena, fleet, worker, lanes, router, order, delivery, dispatcher. Knows no component.
    sources     udp, tcp, af_packet, pcap        } one file a kind, its configuration beside it;
    stages      decode, meter, inspect, compress, map } they never import each other
    sinks       jsonl, pcap, tcp, udp, stdout, null   }
    config      the configuration as frozen models, and the loader.
    app         the one place that builds and wires.
    cli, demo   what a person starts.
    testing     manual clock, list source and sink, recording intake: used by tests only.

How a segment travels: a source writes it once into a slot of the shared-memory arena; the router names
its lane; a worker process of that lane runs the whole stage chain on that memory; the order line of its
key releases it; sinks read it from the slot; the source is told; the slot is free again. Only slot
numbers travel between processes, in batches.

Invariants, as absences:

- No Python runs per packet; the dispatcher runs a few microseconds of it per segment.
- No segment is in two places: free, open, queued, held by one worker, waiting in its order line, or held
  by sinks.
- No segment ends uncounted: delivered, dead-lettered, or shed with a reason; received is their sum plus
  what is in flight.
- No acknowledgement goes to a source before every sink has the segment.
- No crash of a stage, a segfault included, reaches the dispatcher.
- A policy never reads a clock, and an engine part never imports a component.
"""

from __future__ import annotations

__version__ = "0.1.0"
