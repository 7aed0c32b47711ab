"""Is the broker there? (Sending to it is `service.dispatch`.)"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr


def client_url(redis_url: str) -> str:
    """Celery's ``redis+socket:///path?virtual_host=0`` as redis-py writes it: ``unix:///path?db=0``."""
    parts = urlsplit(redis_url)
    if parts.scheme != "redis+socket":
        return redis_url
    query = parse_qs(parts.query)
    credentials, at, _ = parts.netloc.rpartition("@")
    return f"unix://{credentials}{at}{parts.path}?db={query.get('virtual_host', ['0'])[0].strip('/') or '0'}"


async def ping(redis_url: SecretStr) -> None:
    """Ask the broker for a sign of life.

    Raises:
        redis.exceptions.RedisError: there is none.
    """
    # Imported late: readiness is the only thing in the API that talks to it without Celery.
    from redis.asyncio import Redis

    client = Redis.from_url(
        client_url(redis_url.get_secret_value()), socket_timeout=1.0, socket_connect_timeout=1.0
    )
    async with client:
        await client.ping()
