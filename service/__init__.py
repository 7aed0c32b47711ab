"""The system of record and its HTTP face. Never imports torch or worker."""
