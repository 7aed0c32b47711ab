"""Who sees which model, and taking one out of service."""

from __future__ import annotations

import asyncio
import shutil

from sqlalchemy.ext.asyncio import AsyncSession

from catalogue import BaseModel, Catalogue
from service.db.models import Model
from service.errors import NotFound
from service.models import statements
from service.storage import Storage

AnyModel = BaseModel | Model
"""A base model of the catalogue, or a fine-tuned one."""


class ModelNotFound(NotFound):
    """No such model, or not the caller's."""

    code = "model_not_found"


async def find(
    session: AsyncSession, catalogue: Catalogue, model_id: str, *, organization_id: str | None
) -> AnyModel:
    """A base model, or the organization's own fine-tuned one (None: anybody's).

    Raises:
        ModelNotFound: neither.
    """
    if model_id in catalogue:
        return catalogue.get(model_id)
    return await find_tuned(session, model_id, organization_id=organization_id)


async def find_tuned(session: AsyncSession, model_id: str, *, organization_id: str | None) -> Model:
    """A fine-tuned model.

    Raises:
        ModelNotFound: there is none, or it is another organization's.
    """
    model = await session.scalar(statements.one(model_id, organization_id=organization_id))
    if model is None:
        raise _not_found(model_id)
    return model


async def delete(session: AsyncSession, model_id: str, *, organization_id: str) -> None:
    """Take a model out of service. Its files go with `remove_files`, after the commit.

    Raises:
        ModelNotFound: there is none, or it is another organization's.
    """
    deleted = await session.execute(statements.delete(model_id, organization_id=organization_id))
    if deleted.first() is None:
        raise _not_found(model_id)


async def remove_files(storage: Storage, model: Model) -> None:
    """Remove a deleted model's adapter from storage."""
    await asyncio.to_thread(shutil.rmtree, storage.root / model.adapter_path, ignore_errors=True)


def _not_found(model_id: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model {model_id!r} does not exist or you do not have access to it.", param="model"
    )
