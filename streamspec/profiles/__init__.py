"""Models of what segments cost, and where they are kept.

``database`` stores models, online state, decisions and speed-up curves in SQLite; ``signing`` and
``unpickling`` decide what of it is loaded.
"""
