"""A city with known truth: who clicked what, and who installed because of it.

``parameters`` is the one table of what is assumed; ``city`` lives three days of it from a seed;
``play`` lets the real matching (over a database) and two simple rules answer its
first opens; ``score`` compares what they said with the truth. ``python -m tests.bench.simulation`` shows
the tuning seeds: the confidence's odds were fitted on those, ``make bench`` reports on others.
"""
