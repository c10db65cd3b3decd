"""Where segments come from: one file a kind."""
