"Scripts that lie outside the package, as modules of a test."

import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType


@lru_cache
def module(path: Path) -> ModuleType:
    "The script at `path`, run once; two of the same name stay apart."
    spec = importlib.util.spec_from_file_location(f"script_{abs(hash(path))}_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
