"""The worker's writes to the system of record: short transactions around the work, never across it."""
