"""The subcommands of doublei, and what they show."""
