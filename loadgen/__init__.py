"""A generator of traffic in named kinds, independent of the service that it tests.

Everything that is sent is made up from grammar and chance; see :mod:`loadgen.kinds`. Load is open-loop: when a
message is due is decided before anything is sent. With an audit, each message carries a marker by which
:mod:`loadgen.verify` finds it again at a sink.

    kinds sizes pool            what is sent: bodies, made beforehand
    scenario arrivals schedule  which of them when, on which key: blocks of rows
    driver                      takes what is due, hands it to a sender, waits
    udp tcp                     senders; batch, datagrams and kernels beneath them
    load replay                 one run of a scenario, or of captures
    audit marker sinks verify   what was sent, and what became of it
    receive records             a receiver for sinks that send

From a program: ``loadgen.run_load(scenario, to, seconds=..., on_progress=...)``, see :func:`loadgen.load.run_load`.

Invariants: a schedule never looks at how sending goes; nothing here imports what it tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadgen.load import run_load

__all__ = ["run_load"]


def __getattr__(name: str) -> Any:
    """``run_load``, loaded when it is asked for: it brings the compiled kernels with it."""
    if name == "run_load":
        from loadgen.load import run_load

        return run_load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
