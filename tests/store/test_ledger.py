"""Ledgers of older versions stay readable, for reports and for verify."""

import pyarrow as pa
import pytest

from raypipe.errors import DamageError
from raypipe.records import PREDICTION_SCHEMA, PREDICTION_SCHEMA_1, predictions_of
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger, shard_of
from raypipe.store.shards import encode
from tests.judge.cases import prediction


def test_predictions_of_an_older_version_are_read_with_defaults_for_what_is_new(tmp_path):
    new = prediction(context="")
    old = {name: getattr(new, name) for name in PREDICTION_SCHEMA_1.names}
    store = Store(str(tmp_path))
    store.put_new("predictions/a.arrow", encode(pa.Table.from_pylist([old], schema=PREDICTION_SCHEMA_1)))
    assert shard_of(store, "predictions/a.arrow", PREDICTION_SCHEMA, None).table().num_rows == 1
    assert predictions_of(Ledger(store, "predictions", PREDICTION_SCHEMA).rows()) == [new]


def test_a_schema_that_no_version_wrote_is_damage(tmp_path):
    store = Store(str(tmp_path))
    store.put_new("predictions/a.arrow", encode(pa.table({"key": ["k"]})))
    with pytest.raises(DamageError, match="schema that raypipe did not write"):
        shard_of(store, "predictions/a.arrow", PREDICTION_SCHEMA, None)
