"""Pure functions: an observation and the present plan in, proposals out."""
