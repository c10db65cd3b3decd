"""Models of what segments cost, and where they are kept.

``database`` stores models, online state, decisions and speed-up curves in SQLite; ``signing`` and
``unpickling`` decide what of it is loaded, ``set_aside`` what a service does when it cannot be used. ``lookup``
gives the resource profile of a feature vector.
"""
