"""Cities with known truth: who clicked what, and who installed because of it.

``parameters`` is the table of what is assumed of each kind of city; ``people`` are where they are, ``city``
lives three days from a seed; ``play`` lets the real matcher (over stores in memory) and two simple rules
answer its first opens; ``score`` compares what they said with the truth. ``python -m
tests.bench.simulation`` shows the tuning seeds: the model's constants were chosen on those; ``make bench``
reports on others.
"""
