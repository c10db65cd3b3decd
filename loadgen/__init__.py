"""A generator of traffic in named kinds, independent of the service that it tests.

Everything that is sent is made up from grammar and chance; see :mod:`loadgen.kinds`. Load is open-loop: when a
message is due is decided before anything is sent. With an audit, each message carries a marker by which
:mod:`loadgen.verify` finds it again at a sink.
"""
