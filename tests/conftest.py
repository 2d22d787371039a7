"""Fixtures of the tests that drive the command line."""

pytest_plugins = ["tests.faults.fixtures"]
