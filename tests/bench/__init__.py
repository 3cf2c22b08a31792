"""``make bench``: firstopen against baselines, on the same two cores and in the same run.

A noisy machine moves every absolute figure; what counts are ratios within a round. Servers have one
core, the load and the fake Dub another. Nothing in the service knows that it is measured.
"""
