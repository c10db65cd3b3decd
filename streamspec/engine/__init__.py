"""The data path; it knows contracts, never a component."""
