"""The embedded stack: one supervisor that owns Postgres, Valkey and this project's processes.

Reading order: ``plan`` (what runs, in which order), ``supervisor`` (how it is kept running and
stopped), ``stack`` (the face shown to commands). Kept free of imports: ``launch``, ``guard`` and
``initialise`` run as processes of their own and should start at once.
"""
