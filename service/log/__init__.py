"""The transparency log: what is entered, in whose transaction, and what is signed of it."""
