"""Jobs under faults: a seeded nemesis on the real stack, clients that keep their own history, and a checker
that reads what is left. ``python -m benchmarks.chaos``.

The trainer's stand-in starts here a hundred times a minute, so nothing is imported in this file.
"""
