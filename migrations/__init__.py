"""Alembic migrations. Imports service.db.models and nothing else of ours."""
