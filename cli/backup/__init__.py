"""A data folder in one file, and back: docs/operations.md."""
