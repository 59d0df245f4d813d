"""A Python in which only the package's base dependencies can be imported, as after `pip install smpr`.

    python base_only.py program.py arguments ...

The environment of the tests has more: what belongs to other distributions is refused as if missing."""

import re
import runpy
import sys
from importlib import metadata
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder


def needed(names: list[str]) -> set[str]:
    "Distributions that these requirements bring, those of extras left out."
    out: set[str] = set()
    while names:
        text = names.pop()
        name = re.match(r"[\w.-]+", text)[0].lower().replace("_", "-")
        if name in out or "extra ==" in text:
            continue
        try:
            names += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another system
        out.add(name)
    return out


class BaseFinder:
    "Finds modules as Python does, but not those of other distributions."

    def __init__(self, base: set[str]):
        owners = metadata.packages_distributions()
        self.foreign = {m for m, d in owners.items() if not base & {n.lower().replace("_", "-") for n in d}}

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in self.foreign
        return None if hidden else PathFinder.find_spec(name, path, target)

    def find_distributions(self, *about):
        "What is said of installed distributions, which some ask for a version."
        return PathFinder.find_distributions(*about)


if __name__ == "__main__":
    finder = BaseFinder(needed(["smpr"]))
    sys.meta_path[:] = [f for f in sys.meta_path if f in (BuiltinImporter, FrozenImporter)] + [finder]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
