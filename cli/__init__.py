"""The doublei command: the embedded stack, the demo, the owner's and the auditor's tools."""
