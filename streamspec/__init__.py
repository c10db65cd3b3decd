"""streamspec: a service for streams of network packets that tunes itself while it runs.

The map of the code, from the bottom up; a package imports only what stands before it::

    core        words and contracts: segment layout, interfaces, predictions, control, errors, units. No I/O.
    telemetry   metrics (every name once), state, decisions, traces, logging.
    links       how a Kafka cluster is reached; shared by source and sink.
    engine      arena, fleet, worker, lanes, router, order, delivery, dispatcher; foresight (what is known of a
                segment before it runs), observer, guard, cycle, controller, grants. Knows no component.
    sources     udp, tcp, af_packet, pcap, kafka      } one file a kind, its configuration beside it;
    stages      decode, meter, inspect, compress, map } they never import each other
    sinks       jsonl, pcap, tcp, udp, kafka, stdout, null }
    profiler    features of segments, in kernels.
    profiles    base model (trees), online layer (River) and its process, Resource Profile Database.
    policies    planner, reflex, variants, tuner, and the baselines static, aimd, gradient, ds2. Pure.
    actuators   cores, priority, cgroups, bandwidth classes, caches, GPU memory: probe, apply, read back, restore.
    monitors    host, sockets, GPUs, topology.
    admin       HTTP and dashboard; reads telemetry only.
    simulation  a plant on a virtual clock, under the same cycle as the service; `streamspec replay` runs on it.
    config      the configuration as frozen models, and the loader.
    assembly    what learns, controls and acts on the host, put together for one configuration.
    app         the one place that builds and wires.
    cli, demo   what a person starts; each command in a module of its own.
    testing     manual clock, list source and sink, recording intake: used by tests only.

How a segment travels: a source writes it once into a slot of the shared-memory arena; it is profiled and its
cost predicted; the router names its lane by that cost; a worker process of that lane runs the whole stage
chain on that memory; the order line of its key releases it; sinks read it from the slot; the source is told;
the slot is free again. Only slot numbers travel between processes, in batches. What it really cost goes to the
learner, and what waits and arrives to the controller.

Invariants, as absences:

- No Python runs per packet; the dispatcher runs a few microseconds of it per segment.
- No segment is in two places: free, open, queued, held by one worker, waiting in its order line, or held
  by sinks.
- No segment ends uncounted: delivered, dead-lettered, or shed with a reason; received is their sum plus
  what is in flight.
- No acknowledgement goes to a source before every sink has the segment.
- No crash of a stage, a segfault included, reaches the dispatcher.
- A policy never reads a clock, and an engine part never imports a component.
- No learning on the data path: the learner is a process, and the dispatcher predicts from immutable snapshots.
- No step of control without the guard, and none that is not on record with its reason.
- No change of the host that is not put back at exit, or found and removed by the next start.
"""

from __future__ import annotations

__version__ = "0.1.0"
