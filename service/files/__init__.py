"""Uploaded datasets: strict reading, validation row by row, use cases."""
