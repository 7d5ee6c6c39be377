"""Fixtures for tests that open a browser."""

import shutil

import pytest


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of an installed Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("no Chromium or Chrome installed: apt-get install chromium")
