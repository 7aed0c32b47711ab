"""A dispute between two owners: its folder, and its report as a page."""
