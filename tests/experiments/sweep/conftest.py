"""A fixture for the tests of searches."""

import pytest
from sqlalchemy import Engine, event


@pytest.fixture
def in_haste():
    """SQLite does not wait for the disk in this process."""

    def hurry(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)
