"""Removing what nobody will need again. What goes:

- what ended jobs could have gone on from (of failed ones only after a while), and those of their checkpoints
  that were never published;
- files and folders of runs that no row names and no run can still be writing;
- stored datasets that no file and no unfinished job needs; uploads that a dead process left.

The API's processes do it on a schedule (`service.gc.schedule`), an operator at once:
``python -m service.gc``.
"""
