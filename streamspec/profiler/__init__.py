"""What a segment's bytes look like: the features that predict what it will cost.

- ``kernels``: the whole vector for a batch of segments in one call; beside it one module per kind of feature
  (``histogram_kernels``, ``text_kernels``, ``repetition_kernels``), ``sampling_kernels`` (which bytes of a long
  segment are read, and the bounds on the error), ``types`` with ``protocol_kernels``,
  ``text_type_kernels`` and ``packet_kernels`` (the inferred type), and ``vector`` (64 bytes at a time).
- ``patterns``: counts of the user's regular expressions, by Hyperscan.
- ``profiler``: all of it for slots of the arena; ``config`` is its configuration.
- ``report``: the features of files and captures as table, JSON lines and charts.

The schema, column by column, is :mod:`streamspec.core.features`. No kernel allocates, raises, or takes longer for
one content than for another beyond small constants, and none reads outside of the segment, whatever its bytes say.
"""
