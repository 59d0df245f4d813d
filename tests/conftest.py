"SMPR_WITHOUT=name takes a guard away for the whole session: which test notices? (tests/trust/guards.py)"

from trust.guards import remove_guard

remove_guard()

# Files that take longest, in order of their seconds: with -n 2 --dist loadfile --no-loadscope-reorder no
# process ends alone with one of them.
LONGEST = (
    "export",
    "trust",
    "start",
    "ablations",
    "training",
    "scheduler",
    "full_training",
    "top_down",
    "media",
    "golden",
    "peers",
    "cli",
    "snippets",
    "structure",
    "distributed",
    "other_data",
    "real_people",
)


def pytest_collection_modifyitems(items: list) -> None:
    "The files that take longest start first; the order inside a file stays."
    order = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
