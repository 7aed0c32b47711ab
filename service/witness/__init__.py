"""This service as a witness of other logs: it remembers the newest checkpoint of each
and cosigns what continues it."""
