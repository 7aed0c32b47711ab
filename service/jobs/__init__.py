"""Lifecycle, statements and use cases of jobs."""
