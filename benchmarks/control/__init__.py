"""Control on real segments: the learned controller beside every static setting of a sweep and beside baselines."""
