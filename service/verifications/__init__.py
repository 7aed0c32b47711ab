"""Lifecycle, statements and use cases of verifications."""
