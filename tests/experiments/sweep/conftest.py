"""Fixtures of the tests of searches."""

import pytest
from sqlalchemy import Engine, event


@pytest.fixture
def in_haste():
    """Let SQLite not wait for the disk, in this process."""

    def hurry(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)
