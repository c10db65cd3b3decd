"""Words and contracts; imports nothing of the other packages and does no I/O."""
