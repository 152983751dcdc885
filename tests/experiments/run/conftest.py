"""Shared by the tests of what is sent to W&B."""

import os

import pytest


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    """No W&B account or setting of the machine's is in reach."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
