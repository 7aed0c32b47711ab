"""The audit trail: who did what with whose key, to whom. Rows are only ever added."""
