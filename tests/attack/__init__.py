"""Attacks on real processes, by somebody without a key, with a publishable key, or as a bad Dub.

``python -m tests.attack`` runs them in two minutes, prints a table, and exits 1 if one of them succeeds.
Kills and full disks are in ``tests/durability``; answers of Dub's that are no HTTP in
``tests/integration/test_wire_to_dub.py``.
"""
