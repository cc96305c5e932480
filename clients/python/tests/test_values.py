"""Whatever stands in logs, config and metadata: kept where the wire can, else cut or left out with one warning."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import math
import pathlib
import warnings
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import keepbest
from keepbest._events import make_event
from keepbest._values import Intake, json_values
from keepbest.types import Event, EventKind

EPOCH_END = EventKind.EVENT_KIND_EPOCH_END


class Tensor:
    """A 0-d tensor as TensorFlow's: it has `numpy` and no `item`."""

    shape = ()

    def numpy(self):
        return np.float32(0.5)


class Broken:
    shape = ()

    def __repr__(self):
        raise RuntimeError("no text")

    def item(self):
        raise RuntimeError("no value")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Settings:
    rate: float
    path: pathlib.Path


def one(value, template="m", monitor="loss", **arguments):
    """The metric `x` of an event, as its kind and value."""
    intake = Intake(keepbest.strategy(template, monitor, mode="min"), **arguments)
    event = make_event(EPOCH_END, 0, {"x": value}, intake=intake)
    if "x" in event.metrics:
        return "number", event.metrics["x"]
    metric = event.typed_metrics["x"]
    return metric.WhichOneof("kind"), getattr(metric, metric.WhichOneof("kind"))


@pytest.mark.parametrize(
    ("value", "kind", "sent"),
    [
        (True, "text", "True"),
        (np.bool_(False), "text", "False"),
        (np.array(True), "text", "True"),
        (3, "integer", 3),
        (np.int64(2**53 + 1), "integer", 2**53 + 1),
        (2**80, "number", 2.0**80),
        (10**400, "text", "<int>"),
        (np.float32(0.25), "number", 0.25),
        (np.array(0.25, "float16"), "number", 0.25),
        (Tensor(), "number", 0.5),
        (Decimal("0.25"), "number", 0.25),
        (Fraction(1, 4), "number", 0.25),
        (1 + 2j, "text", "(1+2j)"),
        (None, "missing", True),
        ("good", "text", "good"),
        ("\udc80", "text", "\\udc80"),
        (b"raw", "text", "b'raw'"),
        (np.str_("good"), "text", "good"),
        (np.datetime64("2026-01-02"), "text", "2026-01-02"),
        (datetime.date(2026, 1, 2), "text", "2026-01-02"),
        (pathlib.Path("/data/x"), "text", "/data/x"),
        ([1, [2, 3]], "text", "[1, [2, 3]]"),
        ((1,), "text", "(1,)"),
        ({"a": {1}}, "text", "{'a': {1}}"),
        (np.array([0.5]), "not_scalar", "[0.5]"),
        (Broken(), "text", "<Broken>"),
        (Broken, "text", f"{__name__}.Broken"),
    ],
)
@pytest.mark.filterwarnings("ignore:Keepbest")
def test_each_kind_of_value_becomes_what_the_wire_has_for_it(value, kind, sent):
    assert one(value) == (kind, sent)


def test_a_boolean_is_a_word_without_a_format_and_a_number_with_one():
    assert one(True, "m-{x}") == ("text", "True")
    assert one(True, "m-{x:d}") == ("integer", 1)
    assert one(np.bool_(True), monitor="x") == ("integer", 1)


def test_an_array_of_one_element_is_a_number_only_where_tf_keras_compares_it():
    assert one(np.array([[0.5]]), monitor="x", one_element_is_number=True) == ("number", 0.5)
    assert one(np.array([0.5]), monitor="y", one_element_is_number=True)[0] == "not_scalar"
    assert one(np.array([0.5]), monitor="x")[0] == "not_scalar"


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"x": "ä" * 10_000}, "the text of metric `x` is cut"),
        ({"x": np.full((40, 40), 123).tolist()}, "the text of metric `x` is cut"),
        ({"x": list(range(10**6))}, "the text of metric `x` is cut"),
        ({"x": np.zeros((1000, 1000))}, "metric `x` is a large array"),
        ({"x": np.full(900, 1 / 3)}, "the text of metric `x` is cut"),
        ({"x": Broken()}, "metric `x` cannot be read"),
        ({"": 1.0, "x": 1.0}, "a metric has an empty name"),
        ({"n" * 300: 1.0}, "is cut to 256 bytes"),
        ({"a\nb": 1.0}, r"`a\\nb` is sent with its control characters escaped"),
        ({"7": 1.0, 7: 2.0}, "two metrics are called `7`"),
        ({f"m{number}": 1.0 for number in range(1001)} | {"val_loss": 0.5, "best": 1.0}, "1003 metrics in one event"),
    ],
)
def test_what_an_event_cannot_hold_is_told_once_and_the_server_takes_the_rest(client, project, metrics, told):
    run = client.start_run(project, None, keepbest.strategy("m-{best}", mode="min"))
    with pytest.warns(UserWarning) as warned:
        for epoch in range(3):
            assert run.report_epoch(epoch, metrics).action == keepbest.SAVE
    assert len(warned) == 1
    assert warned[0].message.args[0].startswith("Keepbest: ") and told.replace("\\\\", "\\") in str(warned[0].message)
    if "val_loss" in metrics:
        assert [event.event.metrics["val_loss"] for event in client.events(run.name)] == [0.5] * 3


def test_names_that_are_no_texts_become_ones():
    event = make_event(EPOCH_END, 0, {7: 0.1, (1, 2): 0.2, None: 0.3, Colour.RED: 0.4})
    assert dict(event.metrics) == {"7": 0.1, "(1, 2)": 0.2, "None": 0.3, "red": 0.4}


def test_warnings_come_to_an_end():
    intake = Intake()
    with pytest.warns(UserWarning) as warned:
        for step in range(1000):
            intake.fill(Event(), {f"x{step}": "a" * 2000})
    assert len(warned) == 101 and "more metrics" in str(warned[-1].message)


def test_config_and_metadata_keep_their_values(client, project):
    values = {
        "n": np.int64(3),
        "rate": np.float32(0.25),
        "path": pathlib.Path("/d"),
        "time": datetime.datetime(2026, 1, 1),
        "id2label": {0: "cat", None: "none"},
        "nan": float("nan"),
        "inf": -math.inf,
        "seed": 2**53 + 1,
        "shape": (224, 224),
        "set": {1},
        "array": np.eye(2),
        "settings": Settings(0.5, pathlib.Path("x")),
        "namespace": argparse.Namespace(a=1),
        "ordered": OrderedDict(b=2),
        "colour": Colour.RED,
        "function": math.prod,
        "flag": np.bool_(True),
        "broken": Broken(),
        "surrogate": "\udc80",
        "nothing": None,
        5: "five",
    }
    with pytest.warns(UserWarning) as warned:
        run = client.start_run(project, None, keepbest.strategy("m", mode="min"), config=values)
    told = sorted(str(warning.message) for warning in warned)
    assert len(told) == 3 and "`broken` cannot be read" in told[0]
    assert "`inf` holds -inf" in told[1] and "`nan` holds nan" in told[2]
    config = run.resource.config
    assert int(config["seed"]) == 2**53 + 1 and config["n"] == 3 and config["rate"] == 0.25
    assert config["path"] == "/d" and config["time"] == "2026-01-01T00:00:00"
    assert dict(config["id2label"]) == {"0": "cat", "None": "none"}
    assert (config["nan"], config["inf"]) == ("NaN", "-Infinity")
    assert list(config["shape"]) == [224, 224] and list(config["set"]) == [1]
    assert [list(row) for row in config["array"]] == [[1, 0], [0, 1]]
    assert dict(config["settings"]) == {"rate": 0.5, "path": "x"} and dict(config["namespace"]) == {"a": 1}
    assert config["ordered"]["b"] == 2 and config["colour"] == "red" and config["function"] == "math.prod"
    assert config["flag"] is True and config["surrogate"] == "\\udc80" and config["nothing"] is None
    assert config["broken"] == "<Broken>" and config["5"] == "five"


def test_config_that_is_too_much_is_left_out_by_entry_and_named(client, project):
    endless: list = []
    endless.append(endless)
    wide: list = []
    wide += [wide, wide]
    deep: object = 1
    for _ in range(100):
        deep = {"d": deep}
    values = {"long": "x" * 70_000, "many": list(range(100_000)), "wide": wide, "deep": deep, "end": endless, "lr": 0.5}
    with pytest.warns(UserWarning, match="3 of its entries are left out: `long`, `many`, `wide`") as warned:
        run = client.start_run(project, None, keepbest.strategy("m", mode="min"), config=values)
    assert len(warned) == 1
    assert sorted(run.resource.config) == ["deep", "end", "lr"]


def test_objects_stand_for_their_attributes():
    assert json_values("config", argparse.Namespace(rate=0.5)) == {"rate": 0.5}
    assert json_values("config", Settings(0.5, pathlib.Path("x"))) == {"rate": 0.5, "path": "x"}
    assert json_values("config", 5) == {"value": 5}
    assert json_values("config", None) is None


@pytest.mark.parametrize(
    ("template", "near"),
    [
        ("m-{epch}.bin", "did you mean `{epoch}`"),
        ("m-{epochs:02d}.bin", "did you mean `{epoch}`"),
        ("m-{Epoch}.bin", "did you mean `{epoch}`"),
        ("m-{epoch}-{bacth}.bin", "did you mean `{batch}`"),
        ("{epoch}/{val_los:.2f}.bin", "did you mean `{val_loss}`"),
        ("{epoch:{epoc}d}.bin", "did you mean `{epoch}`"),
    ],
)
def test_a_misspelt_placeholder_is_told_at_the_start_with_the_near_miss(template, near):
    with pytest.warns(UserWarning, match=near):
        keepbest.strategy(template, mode="min")


def test_a_misspelt_monitor_corrects_no_placeholder_that_has_a_usual_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keepbest.strategy("{epoch}-{val_loss:.2f}", "vall_loss", mode="min")
    with pytest.warns(UserWarning, match="did you mean `{val_mine}`"):
        keepbest.strategy("{epoch}-{val_mien:.2f}", "val_mine", mode="min")


@pytest.mark.parametrize("template", ["{epoch}-{loss}", "{val_acc}-{step}", "{val_loss}", "{top-5}", "{{epch}}", "{a"])
def test_names_of_other_metrics_are_no_misspellings(template):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keepbest.strategy(template, mode="min")
        keepbest.strategy("{val_loss_2}", "val_loss_1", mode="min")
