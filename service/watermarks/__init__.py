"""Watermark keys: committed, salted, sealed; and the grants by which others may verify with them."""
