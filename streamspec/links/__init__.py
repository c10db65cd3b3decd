"""What sources and sinks of one outside system share: how it is reached, and what its errors mean."""
