"""Fixtures of the tests that drive the command line, and what holds for every test."""

import os

# read by the libraries when they are imported; no test may reach a network
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "offline"}

pytest_plugins = ["tests.faults.fixtures"]
