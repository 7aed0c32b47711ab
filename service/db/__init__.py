"""Tables and engines."""
