"""The experiment machinery: parameters, records, tables, and the notebook whose form must match the configuration."""
import json
from pathlib import Path

import pytest

from smpr.ablations import (COLUMNS, Row, apply_parameters, load_records, make_scale, parameter_names, reproduce, row_config,
                            table_csv, table_markdown, table_rows, write_record)
from smpr.settings import SmprError
from smpr.training import Config

NOTEBOOKS = Path(__file__).parent.parent / "nbs" / "ablations"


def record(row: str, seed: int, ap: float) -> dict:
    return {"experiment": "table1", "row": row, "scale": "mini", "seed": seed, "metrics": {c: ap for c in COLUMNS}}


def test_run_notebook_offers_every_field():
    "Each configuration field is a papermill parameter of run.ipynb, and nothing else claims to be one."
    cells = json.loads((NOTEBOOKS / "run.ipynb").read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    offered = {line.split(" = ")[0] for line in source.splitlines() if " = None" in line and line.split("_")[0] in
               ("model", "assign", "loss", "data", "test", "decode", "train")}
    assert offered == set(parameter_names())


@pytest.mark.parametrize("row", list(Row))
def test_rows_share_everything_but_their_switches(row):
    base = make_scale("mini").config
    config = row_config(row, base)
    assert (config.train, config.data, config.test, config.loss) == (base.train, base.data, base.test, base.loss)
    assert (config.model.width, config.model.strides, config.model.backbone) == (base.model.width, base.model.strides, base.model.backbone)


def test_parameters_keep_their_types():
    config = apply_parameters(Config(), {"model_strides": [8, 16], "model_neck": "pafpn", "data_short_range": [640, 800]})
    assert config.model.strides == (8, 16) and config.model.neck.value == "pafpn" and config.data.short_range == (640, 800)


@pytest.mark.parametrize("values", [{"train_speed": 1}, {"assign_shrink": "mine"}, {"assign_oks_threshold": 7}])
def test_bad_parameters_are_named(values):
    with pytest.raises(SmprError) as e: apply_parameters(Config(), values)
    assert next(iter(values)) in str(e.value) and "\n" not in str(e.value)


def test_table_is_made_of_records_alone(tmp_path):
    for seed, ap in ((0, .10), (1, .20)): write_record(record("psm", seed, ap), tmp_path)
    rows = table_rows(load_records("table1", "mini", tmp_path))
    psm = next(r for r in rows if r["row"] == "+ PSM")
    assert psm["seeds"] == 2 and abs(psm["ours"]["AP"] - 15) < 1e-9 and abs(psm["spread"]["AP"] - 7.0711) < 1e-3
    assert [r["seeds"] for r in rows].count(0) == 6
    assert "15.0 ± 7.1" in table_markdown(rows, "test") and "+ PSM,2,15.00" in table_csv(rows)


def test_broken_record_is_named(tmp_path):
    path = write_record(record("psm", 0, .1), tmp_path)
    path.write_text("{")
    with pytest.raises(SmprError, match="psm-mini-s0.json"): load_records("table1", "mini", tmp_path)


def test_unknown_names():
    with pytest.raises(SmprError, match="huge"): make_scale("huge")
    with pytest.raises(SmprError, match="table7"): reproduce("table7")
