"""Imported once, by the process that CPU lanes are forked from: everything a lane's engine needs.

Importing this module is its purpose, so unlike any other it acts on import: it sends this process's output to a log
first, since what libraries print while they are imported is not for the terminal.
"""

import importlib
import os

from streamserve.lanes.vllm.lifeline import IMPORT_LOG, die_with_parent

# First: the server of forks ends by itself when its front has gone, but not in the middle of importing.
die_with_parent()

MODULES = [
    "vllm.v1.engine.core",
    "vllm.engine.arg_utils",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "streamserve.lanes.vllm.executor",
]

if path := os.environ.get(IMPORT_LOG):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)

for name in MODULES:
    importlib.import_module(name)
