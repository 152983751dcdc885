"""Fixtures of the tests of W&B."""

import os

import pytest


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    """An environment without W&B accounts or settings of this machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
