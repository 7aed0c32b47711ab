"""The laboratory: whether a mark takes and what it survives, on any model by one command.

    python -m benchmarks.lab --profile quick --out lab-out      (or: doublei lab --profile quick)

One cell is one measurement, kept as a JSON file with what it was made from; a second run goes on where the
first was stopped. docs/lab.md has what was found.
"""
