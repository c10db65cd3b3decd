"""What changes the host: one file a kind, each an ``Actuator`` (see ``core.actuation``) that knows pids, interface
names and descriptors, and nothing of the engine."""
