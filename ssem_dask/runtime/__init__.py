"""Execution of tasks: one protocol, a serial and a Dask executor, and the events and metrics of a run."""
