"""The two engines. They differ in placeholders, locking and connection handling, and in nothing else."""
