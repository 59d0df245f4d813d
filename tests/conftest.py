"""SMPR_WITHOUT=name takes a guard away for the whole session, to see which test notices
(tests/trust/guards.py)."""

from trust.guards import remove_guard

remove_guard()
