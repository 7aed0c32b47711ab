"""The same POST again does nothing again: its answer is on record in the transaction of the deed itself."""
