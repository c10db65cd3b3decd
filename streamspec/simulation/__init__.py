"""A queueing simulator of the service on a virtual clock, for tests of policies and for ``streamspec replay``."""
