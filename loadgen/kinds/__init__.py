"""Kinds of traffic, one module each. A new kind is a module with ``KIND`` and one entry here.

Contents are made up from grammar and chance, never taken from captures. They differ as real traffic does: in
entropy, repetition, structure and size.
"""

from __future__ import annotations

from loadgen.kinds import compressed, dns, http, media, padding, sensor, syslog, telemetry, tls
from loadgen.kinds.kind import Kind

KINDS: dict[str, Kind] = {
    module.KIND.name: module.KIND for module in (http, telemetry, tls, dns, sensor, media, syslog, padding, compressed)
}

__all__ = ["KINDS", "Kind"]
