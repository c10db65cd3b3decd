"""What is done to a segment, in worker processes: one file a kind."""
