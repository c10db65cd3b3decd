"""Pure functions from observations to allocations; empty until the controller exists."""
