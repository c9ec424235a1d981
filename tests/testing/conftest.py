"""Rows that train until something is learned take seconds for each plugin; `check --all` runs them, too."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "learns an easy task" in item.name.replace("-", " "):
            item.add_marker(pytest.mark.slow)
