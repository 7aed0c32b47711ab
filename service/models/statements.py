"""Statements on published models."""

from __future__ import annotations

from sqlalchemy import Select, Update, func, select, update

from service.db.models import Model


def visible(*, organization_id: str | None) -> Select[Model]:
    """An organization's models, or with None everybody's, newest first."""
    statement = select(Model).where(Model.deleted_at.is_(None))
    if organization_id is not None:
        statement = statement.where(Model.organization_id == organization_id)
    return statement.order_by(Model.created_at.desc(), Model.id)


def one(model_id: str, *, organization_id: str | None) -> Select[Model]:
    """One of them."""
    return visible(organization_id=organization_id).where(Model.id == model_id)


def delete(model_id: str, *, organization_id: str) -> Update:
    """Mark the organization's own model as deleted. Returns (id), or no row: there was none."""
    return (
        update(Model)
        .where(Model.id == model_id, Model.organization_id == organization_id, Model.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .returning(Model.id)
    )
