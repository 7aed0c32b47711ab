"""How many jobs a second go through the service when the training itself costs nothing?

See `benchmarks.throughput.__main__` for what is measured and how to run it.
"""
