"""``streamspec train``: measure what segments of given files cost, and fit a base model to it."""

from streamspec.train_models.command import run_train

__all__ = ["run_train"]
