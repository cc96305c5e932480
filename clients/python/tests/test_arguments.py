"""Arguments of the wrong kind: each error names the argument, what was given, and what is right."""

from __future__ import annotations

import math

import numpy as np
import plain
import pytest

import keepbest
from keepbest import _near

RULE = {"filepath": "m.bin", "monitor": "auc", "mode": "max"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"save_best": True}, "strategy has no argument `save_best`, did you mean `save_best_only`?"),
        ({"when_monitor_mising": 1}, "has no argument `when_monitor_mising`, did you mean `when_monitor_missing`?"),
        ({"foo": 1}, "strategy has no argument `foo`; there are `filepath`, `monitor`, "),
        ({"every_batches": 5}, "strategy has no argument `every_batches`"),
        ({"filepath": 3}, '`filepath` is 3, a value of type `int`: it must be a path, as "m-{epoch:02d}.safetensors"'),
        ({"monitor": ["auc"]}, "`monitor` is ['auc'], a value of type `list`: it must be the name of a metric"),
        ({"save_best_only": "yes"}, "`save_best_only` is 'yes', a value of type `str`: it must be True or False"),
        ({"min_delta": "small"}, "`min_delta` is 'small', a value of type `str`: it must be a number"),
        (
            {"save_freq": 1 << 70},
            f"`save_freq` is {1 << 70}, a value of type `int`: it must be a whole number between -2^63 and",
        ),
        ({"when_monitor_missing": "keep"}, "when_monitor_missing `keep` is none of `SKIP`, `SAVE`, `FAIL`"),
    ],
)
def test_a_wrong_strategy_says_what_is_right(arguments, text):
    with pytest.raises((TypeError, ValueError)) as failed:
        keepbest.strategy(**{"filepath": "m.bin", **arguments})
    assert text in str(failed.value)


def test_the_labels_of_a_strategy_may_be_short():
    rules = [
        keepbest.strategy("m.bin", when_monitor_missing=label) for label in ("save", "SAVE", "WHEN_MISSING_SAVE", 2)
    ]
    assert all(rule == rules[0] for rule in rules)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda run: run.report_epoch(2, 0.3),
            "`metrics` is 0.3, a value of type `float`: it must be a mapping from name",
        ),
        (lambda run: run.report_epoch(2, 0.3), 'as {"auc": 0.3}'),
        (lambda run: run.report_epoch(2, 10**400), "`metrics` is 1000"),
        (lambda run: run.report_epoch(2, None), "`metrics` is None: it must be a mapping from name to value"),
        (lambda run: run.report_epoch("2", {}), "`epoch` is '2', a value of type `str`: it must be a whole number"),
        (lambda run: run.report_epoch(2.5, {}), "`epoch` is 2.5, a value of type `float`: it must be a whole number"),
        (lambda run: run.report_epoch(None, {}), "`epoch` is None: it must be a whole number"),
        (lambda run: run.report_epoch(1 << 70, {}), "it must be a whole number between -2^63 and 2^63"),
        (lambda run: run.report_epoch(2, {}, step="x"), "`step` is 'x'"),
        (lambda run: run.report_batch(0, None, {}), "`batch` is None"),
        (lambda run: run.report({"auc": 1.0}), "it must be an event, as `run.event(epoch, metrics)` makes them"),
        (lambda run: run.report_many([{"auc": 1.0}]), "it must be an event, as `run.event(epoch, metrics)` makes them"),
        (lambda run: run.save(None, "m"), "`decision` is None: it must be a decision that `report` returned"),
        (lambda run: run.abandon(None), "`decision` is None: it must be a decision that `report` returned"),
        (lambda run: run.fail("x", epoch="y"), "`epoch` is 'y'"),
    ],
)
def test_a_wrong_report_says_what_is_right_and_leaves_the_run_as_it_is(client, project, call, text):
    run = client.start_run(project, "r", RULE)
    with pytest.raises((TypeError, ValueError)) as failed:
        call(run)
    assert text in str(failed.value)
    assert run.report_epoch(0, {"auc": 0.5}).action == keepbest.SAVE


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda client: client.start_run(strategy="m.bin"),
            "`strategy` is 'm.bin', a value of type `str`: it must be what",
        ),
        (lambda client: client.start_run(strategy={"filepth": "m"}), "no argument `filepth`, did you mean `filepath`?"),
        (lambda client: client.start_run(strategy={"filepath": "m", "save_freq": -(2**70)}), "-2^63 and 2^63"),
        (
            lambda client: client.start_run(strategy={"filepath": "m-\udc80.bin"}),
            "`filepath` is 'm-\\udc80.bin', a value",
        ),
        (
            lambda client: client.start_run(strategy={"filepath": "m", "monitor": "\udc80x"}),
            "it must be a text that UTF-8",
        ),
        (
            lambda client: list(client.versions("a", filter=b"\xff")),
            "a value of type `bytes`: it must be a text that UTF",
        ),
        (lambda client: client.run("\udc80"), "`run` is"),
        (lambda client: client.artifact("\udc80"), "`artifact` is"),
        (lambda client: client.start_run(strategy={3: "m"}), "strategy has no argument `3`; there are `filepath`"),
        (lambda client: client.start_run(strategy={"monitor": "auc"}), "`filepath` is missing"),
        (lambda client: client.start_run(run=3, strategy=RULE), "`run` is 3, a value of type `int`: it must be a text"),
        (
            lambda client: client.start_run(3, strategy=RULE),
            "`project` is 3, a value of type `int`: it must be `team/pr",
        ),
        (lambda client: client.start_run(strategy=RULE, rank="0"), "`rank` is '0'"),
        (lambda client: client.start_run(strategy=RULE, timeout="3"), "`timeout` is '3'"),
        (lambda client: client.start_run(strategy=RULE, metric_directions="up"), "`metric_directions` is 'up'"),
        (lambda client: client.set_alias("a:v1", 3), "`alias` is 3, a value of type `int`: it must be a text"),
        (lambda client: client.push("m", "a", metrics=0.5), "`metrics` is 0.5, a value of type `float`"),
        (lambda client: client.push("m", "a", epoch="x"), "`epoch` is 'x'"),
        (lambda client: client.delete_run("r", dry_run="x"), "`dry_run` is 'x'"),
        (lambda client: client.delete_versions("a", keep_newest="x"), "`keep_newest` is 'x'"),
        (lambda client: client.versions("a", filter=3), "`filter` is 3"),
        (lambda client: client.events("r", metrics="loss"), 'it must be a list of names, as ["loss"]'),
        (lambda client: client.run(3), "`run` is 3, a value of type `int`: it must be the name of one"),
        (lambda client: client.version(3), "`version` is 3, a value of type `int`: it must be its name"),
        (lambda client: keepbest.Client(3), "`address` is 3, a value of type `int`: it must be host:port"),
        (lambda client: keepbest.Client(timeout="x"), "`timeout` is 'x'"),
    ],
)
def test_a_wrong_call_says_what_is_right_and_sends_nothing(interposer, call, text):
    with pytest.raises((TypeError, ValueError)) as failed:
        call(keepbest.Client(interposer.address, timeout=5))
    assert text in str(failed.value)
    assert interposer.calls == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"filepath": 3}, "`filepath` is 3, a value of type `int`: it must be a path"),
        ({"every_epochs": 1.5}, "`every_epochs` is 1.5, a value of type `float`: it must be a whole number"),
        ({"held_bytes": "x"}, "`held_bytes` is 'x'"),
        ({"grace_seconds": None}, "`grace_seconds` is None: it must be a number"),
        ({"retry_seconds": "x"}, "`retry_seconds` is 'x'"),
        ({"held_bytes": math.nan}, "held_bytes is NaN, which is no limit"),
        ({"retry_seconds": math.nan}, "retry_seconds is NaN, which is no limit"),
        ({"retry_seconds": -1}, "retry_seconds `-1` is negative"),
        ({"monitor": None}, "`monitor` is None: it must be the name of a metric"),
        ({"client": "x"}, "`client` is 'x', a value of type `str`: it must be a keepbest.Client"),
        ({"run": 3}, "`run` is 3, a value of type `int`: it must be the id of a run"),
    ],
)
def test_a_wrong_callback_says_what_is_right(arguments, text):
    with pytest.raises((TypeError, ValueError)) as failed:
        plain.Callback(**{"filepath": "m.txt", **arguments})
    assert text in str(failed.value)


def test_numbers_of_other_kinds_are_numbers(client, project):
    run = client.start_run(project, "r", {**RULE, "min_delta": np.float32(0)})
    assert run.report_epoch(np.int64(0), {"auc": np.float32(0.5)}, step=np.int32(7)).epoch == 0
    assert keepbest.strategy("m.bin", save_best_only=np.bool_(True).item()).save_best_only


def test_what_is_not_given_and_whole_floats_are_taken(client, project, tmp_path):
    arguments = {"artifact": None, "verbose": 1.0, "every_epochs": 2.0, "held_bytes": 1e9}
    callback = plain.Callback(tmp_path / "m-{epoch}.txt", client=client, project=project, run="r", **arguments)
    plain.fit(callback, 4)
    assert [version.epoch for version in client.versions(f"{project}/run-r-model")] == [3, 1]
    assert client.start_run(project, "s", RULE, artifact=None, writer=None).report_epoch(0, {"auc": 1.0}) is not None


def test_what_is_long_is_cut():
    with pytest.raises(TypeError) as failed:
        keepbest.strategy("m.bin", monitor=["x"] * 1_000)
    assert len(str(failed.value)) < 200


def test_a_near_miss_is_no_other_name():
    known = ["epoch", "val_loss", "val_loss_1"]
    near = {name: _near.near_miss(name, known) for name in ("epch", "Epoch", "loss", "val_loss_2", "epoch", "")}
    assert near == {"epch": "epoch", "Epoch": "epoch", "loss": None, "val_loss_2": None, "epoch": None, "": None}
