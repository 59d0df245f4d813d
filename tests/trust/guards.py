"""Guards that can be taken away, to see that a test notices: SMPR_WITHOUT=name."""
import os

GUARDS = {}


def guard(name: str, notices: str):
    "Register how a guard is removed and the test that must fail then."
    def keep(remove):
        GUARDS[name] = (remove, notices)
        return remove
    return keep


def remove_guard(name: str | None = None) -> None:
    "Take away the guard that is named, or that SMPR_WITHOUT names; nothing without a name."
    name = name or os.environ.get("SMPR_WITHOUT")
    if name: GUARDS[name][0]()
