"""Guarantees that are measured: kills, bad files, hostile files, agreement, memory, concurrency. `make trust`
runs all of it."""
