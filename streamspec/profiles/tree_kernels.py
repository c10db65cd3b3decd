"""Compiled evaluation of boosted trees: a batch of segments, every head, one call."""

from __future__ import annotations

import math

import numpy as np

from streamspec.core.interfaces import Rows
from streamspec.core.jit import lean_kernel
from streamspec.core.prediction import Features
from streamspec.profiles.head_plan import Floats, Indices
from streamspec.profiles.trees import FeatureNumbers

SIZE_SCALE_BYTES = 2000.0
"""Work is predicted in proportion to the length and this, about as many bytes as a call's fixed cost is worth."""


@lean_kernel
def predict_forest(
    features: Features,
    feature: FeatureNumbers,
    threshold: Features,
    leaf: Features,
    first_tree: Indices,
    bias: Floats,
    slope: Floats,
    out: Floats,
) -> None:
    """Fill ``out`` (``(n, heads)``) with ``bias + slope * log(length + SIZE_SCALE_BYTES)`` and the sum of the trees.

    All trees are perfect: node ``i`` has the children ``2 i + 1`` and ``2 i + 2``, so a walk has neither branches nor
    child numbers. Eight segments walk at a time, because each step waits for the one before. Arguments otherwise as
    in ``trees.Forest``.
    """
    rows, heads = out.shape
    first_leaf = np.uint32(leaf.shape[1] - 1)
    depth = 0
    while (1 << depth) < leaf.shape[1]:
        depth += 1
    for row in range(rows):
        size = math.log(max(features[row, 0], 0.0) + SIZE_SCALE_BYTES)
        for head in range(heads):
            out[row, head] = bias[head] + slope[head] * size
    eights = rows - rows % 8
    for head in range(heads):
        for row in range(0, eights, 8):
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.float32(0)
            for tree in range(first_tree[head], first_tree[head + 1]):
                a = b = c = d = e = f = g = h = np.uint32(0)
                for _ in range(depth):
                    a = np.uint32(2 * a + 1 + (features[row, feature[tree, a]] > threshold[tree, a]))
                    b = np.uint32(2 * b + 1 + (features[row + 1, feature[tree, b]] > threshold[tree, b]))
                    c = np.uint32(2 * c + 1 + (features[row + 2, feature[tree, c]] > threshold[tree, c]))
                    d = np.uint32(2 * d + 1 + (features[row + 3, feature[tree, d]] > threshold[tree, d]))
                    e = np.uint32(2 * e + 1 + (features[row + 4, feature[tree, e]] > threshold[tree, e]))
                    f = np.uint32(2 * f + 1 + (features[row + 5, feature[tree, f]] > threshold[tree, f]))
                    g = np.uint32(2 * g + 1 + (features[row + 6, feature[tree, g]] > threshold[tree, g]))
                    h = np.uint32(2 * h + 1 + (features[row + 7, feature[tree, h]] > threshold[tree, h]))
                s0 += leaf[tree, a - first_leaf]
                s1 += leaf[tree, b - first_leaf]
                s2 += leaf[tree, c - first_leaf]
                s3 += leaf[tree, d - first_leaf]
                s4 += leaf[tree, e - first_leaf]
                s5 += leaf[tree, f - first_leaf]
                s6 += leaf[tree, g - first_leaf]
                s7 += leaf[tree, h - first_leaf]
            out[row, head] += s0
            out[row + 1, head] += s1
            out[row + 2, head] += s2
            out[row + 3, head] += s3
            out[row + 4, head] += s4
            out[row + 5, head] += s5
            out[row + 6, head] += s6
            out[row + 7, head] += s7
        for row in range(eights, rows):
            total = np.float32(0)
            for tree in range(first_tree[head], first_tree[head + 1]):
                node = np.uint32(0)
                for _ in range(depth):
                    node = np.uint32(2 * node + 1 + (features[row, feature[tree, node]] > threshold[tree, node]))
                total += leaf[tree, node - first_leaf]
            out[row, head] += total


@lean_kernel
def add_up_chain(
    logs: Floats,
    margins: Floats,
    time_heads: Indices,
    ratio_heads: Indices,
    defaults: Indices,
    varied_stage: int,
    variants: int,
    out: Features,
) -> None:
    """Fill rows of ``PREDICTION``, as single numbers, from the logarithm of each head.

    Args:
        logs: shape ``(n, heads)``.
        margins: of each head: log residual that the wanted share of segments stays below.
        time_heads, ratio_heads, defaults, varied_stage: see ``head_plan.PlanArrays``.
        variants: ``MAX_VARIANTS``.
        out: ``float32``, shape ``(n, 2 + 2 * variants)``.
    """
    for row in range(logs.shape[0]):
        work = upper = varied = 0.0
        for stage in range(time_heads.shape[0]):
            head = time_heads[stage, defaults[stage]]
            if head >= 0:
                cost = math.exp(logs[row, head])
                work += cost
                upper += cost * math.exp(margins[head])
                if stage == varied_stage:
                    varied = cost
        out[row, 0], out[row, 1] = work, max(work, upper)
        for variant in range(variants):
            head = time_heads[varied_stage, variant] if varied_stage >= 0 else -1
            out[row, 2 + variant] = max(work - varied, 0.0) + math.exp(logs[row, head]) if head >= 0 else 0.0
            head = ratio_heads[variant]
            out[row, 2 + variants + variant] = math.exp(logs[row, head]) if head >= 0 else 0.0


def singles_of(rows: Rows) -> Features:
    """Contiguous ``PREDICTION`` rows as ``float32``, shape ``(n, fields)``."""
    singles: Features = rows.view(np.float32).reshape(len(rows), rows.dtype.itemsize // 4)
    return singles
