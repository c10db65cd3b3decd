"""Parts of a service put together for ``app``: what learns, what controls, what keeps the ledger."""
