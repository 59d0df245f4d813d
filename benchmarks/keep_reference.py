"""The page of the reference run, the last row of Table I, beside its record.

    python benchmarks/keep_reference.py [SCALE]

One executed notebook is kept with the project: whoever wants to see what a run looks like, opens it. It is
cleaned first: no progress bars, no times of papermill, no folders of this machine. `make reproduce` calls
this."""

import json
import sys
from pathlib import Path

import smpr
from smpr.experiments.jobs import row_job
from smpr.experiments.records import made_here
from smpr.experiments.rows import Row
from smpr.settings import Settings, atomic_write, load_settings

REFERENCE = row_job(Row.PAFPN)


def keep_reference(scale: str, settings: Settings) -> Path | None:
    """Put the reference run's notebook beside its record, without what belongs to one machine and one hour;
    None where this checkout has not run it."""
    record, page = REFERENCE.record(scale, settings.figures), REFERENCE.executed(scale, settings.runs)
    if not page.exists() or not made_here(record, settings.runs):
        return None
    book, home = json.loads(page.read_text()), f"{Path(smpr.__file__).resolve().parent.parent}/"
    for part in (book, *book["cells"]):
        part["metadata"].pop("papermill", None)
        if "outputs" in part:
            part["outputs"] = [o for o in part["outputs"] if o.get("name") != "stderr"]
    text = json.dumps(book, indent=1, sort_keys=True, ensure_ascii=False).replace(home, "") + "\n"
    return atomic_write(record.with_suffix(".ipynb"), text)


if __name__ == "__main__":
    print(keep_reference(*sys.argv[1:] or ["mini"], load_settings()) or "not made here")
