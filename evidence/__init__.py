"""The record of an audit: canonical bytes, digests, one document, and the check that needs nobody's word.

No database and no network. The format is described in docs/evidence-format.md.
"""
