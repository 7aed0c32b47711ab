"""The fixtures' servers are real, private and separate."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from cli.stack import valkey

pytestmark = pytest.mark.integration


def test_each_test_gets_a_migrated_database_of_its_own(postgres_url: str) -> None:
    """The schema is there and the database is not the template."""
    with create_engine(postgres_url, poolclass=NullPool).connect() as connection:
        tables = connection.execute(
            text("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
        ).scalar_one()
        name = connection.execute(text("SELECT current_database()")).scalar_one()
    assert tables > 1
    assert name.startswith("test_")


def test_only_this_user_reaches_the_sockets(postgres_server: Path, valkey_server: Path) -> None:
    """The folder is closed to everyone else and neither server listens on the network."""
    assert stat.S_IMODE(postgres_server.stat().st_mode) == 0o700
    with psycopg.connect(host=str(postgres_server), user="postgres", dbname="postgres") as connection:
        row = connection.execute("SHOW listen_addresses").fetchone()
    assert row == ("",)
    with redis.Redis(unix_socket_path=str(valkey_server / valkey.SOCKET_NAME)) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_broker_starts_empty(valkey_url: str) -> None:
    """A test never sees another test's messages."""
    database = int(valkey_url.rpartition("=")[2])
    path = valkey_url.removeprefix("redis+socket://").partition("?")[0]
    with redis.Redis(unix_socket_path=path, db=database) as client:
        assert client.dbsize() == 0
