"""The command line: one module for each group of commands, one application for all."""

# In the order in which `streamserve --help` lists their commands, which each adds when it is imported.
# isort: off
from streamserve.cli import serving, talk, inspection, benchmark, simulation, training
from streamserve.cli.app import app, main
# isort: on

__all__ = ["app", "benchmark", "inspection", "main", "serving", "simulation", "talk", "training"]
