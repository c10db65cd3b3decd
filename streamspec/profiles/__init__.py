"""Models of what segments cost, and where they are kept.

``database`` stores models, online state, decisions and speed-up curves in SQLite; ``signing`` and
``unpickling`` decide what of it is loaded, ``set_aside`` what a service does when it cannot be used. ``lookup``
gives the resource profile of a feature vector.

``learner`` starts ``learner_process``, hands it outcomes through ``outcome_ring``, and gets each ``snapshot`` that the
dispatcher predicts with. In that process ``online`` learns: ``tracking`` (fast linear models, from every outcome),
``challenger`` (River's Hoeffding trees, within a CPU budget), ``latency_kernels``; ``state_keeper`` stores it.
"""
