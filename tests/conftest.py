"SMPR_WITHOUT=name takes a guard away for the whole session: which test notices? (tests/trust/guards.py)"

from trust.guards import remove_guard

remove_guard()

# Files that take minutes, longest first: with -n 2 --dist loadfile no process ends alone with one of them.
LONGEST = (
    "ablations",
    "golden",
    "peers",
    "trust",
    "export",
    "full_training",
    "top_down",
    "training",
    "scheduler",
)


def pytest_collection_modifyitems(items: list) -> None:
    "The files that take longest start first; the order inside a file stays."
    order = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
