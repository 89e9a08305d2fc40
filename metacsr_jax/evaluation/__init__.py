"""Ranks of held-out targets, metrics of the ranks, intervals of the metrics, and rows to report.

The harness sees a model as a score function, `score(batch, adapt_steps) -> score_BI`, and nothing
else.
"""
