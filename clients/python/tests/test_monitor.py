"""A loop that does not report what its run monitors is told once, and goes on."""

from __future__ import annotations

import subprocess
import sys
import warnings

import plain
import pytest

import keepbest

BEST = keepbest.strategy("m.bin", save_best_only=True)


def told(run, *metrics):
    """The warnings about epochs with these metrics."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch, reported in enumerate(metrics):
            run.report_epoch(epoch, reported)
    return [str(it.message) for it in caught]


def test_a_misspelt_monitor_is_told_once_with_the_near_miss(client, project):
    run = client.start_run(project, "r", BEST)
    (text,) = told(run, {"vall_loss": 0.3, "loss": 0.2}, {"vall_loss": 0.2})
    assert text == (
        "Keepbest: epoch 1 was reported without the metric `val_loss`, which the run monitors, so it is not saved, "
        "because only the best is: it has `loss`, `vall_loss`; is `vall_loss` the one? Then report it as `val_loss`, "
        "or monitor `vall_loss`"
    )
    assert [decision.action for decision in client.decisions(run.name)] == [keepbest.SKIP, keepbest.SKIP]


def test_a_monitor_that_is_absent_is_told_where_it_matters(client, project):
    (text,) = told(client.start_run(project, "best", BEST), {"loss": 0.3}, {})
    assert text.endswith("because only the best is: it has `loss`")
    (text,) = told(client.start_run(project, "none", BEST), {})
    assert text.endswith("it has none")
    each = keepbest.strategy("m.bin")
    assert told(client.start_run(project, "each", each), {"loss": 0.3}) == []
    (text,) = told(client.start_run(project, "near", each), {"Val_Loss": 0.3})
    assert "so it cannot be the best: it has `Val_Loss`; is `Val_Loss` the one?" in text
    (text,) = told(client.start_run(project, "late", BEST), {"val_loss": 0.3}, {"val_los": 0.2})
    assert text.startswith("Keepbest: epoch 2 was reported")


@pytest.mark.parametrize(
    ("rule", "effect", "action"),
    [
        ("SKIP", "is not saved, because only the best is", keepbest.SKIP),
        ("SAVE", "is saved without being the best", keepbest.SAVE),
        ("FAIL", "is not saved, and its decision is FAIL", keepbest.FAIL),
    ],
)
def test_what_becomes_of_an_epoch_without_its_monitor_is_told_by_the_strategy(client, project, rule, effect, action):
    best = keepbest.strategy("m.bin", save_best_only=True, when_monitor_missing=rule)
    run = client.start_run(project, "r", best)
    (text,) = told(run, {"loss": 0.3})
    assert f"so it {effect}: it has `loss`" in text
    assert [decision.action for decision in client.decisions(run.name)] == [action]


def test_what_has_the_monitor_in_any_kind_or_is_not_decided_upon_is_told_nothing(client, project):
    assert told(client.start_run(project, "r", BEST), {"val_loss": 0.3}, {"val_loss": None}, {"val_loss": 1}) == []
    assert told(client.start_run(project, "w", BEST, writer="w"), {"vall_loss": 0.3}) == []


def test_many_events_and_batches_are_looked_at_too(client, project):
    run = client.start_run(project, "r", BEST)
    with pytest.warns(UserWarning, match="epoch 2 was reported without the metric `val_loss`"):
        run.report_many([run.event(0, {"val_loss": 0.3}), run.event(0, {}, batch=1), run.event(1, {"vall_loss": 0.2})])
    by_batches = keepbest.strategy("m.bin", monitor="loss", mode="min", save_best_only=True, save_freq=2)
    run = client.start_run(project, "b", by_batches)
    assert run.report_batch(0, 0, {}) is None
    with pytest.warns(UserWarning, match=r"epoch 1, batch 2 was reported without the metric `loss`"):
        run.report_batch(0, 1, {"los": 1.0})


def test_with_warnings_as_errors_the_loop_goes_on(client, project):
    code = (
        f"import keepbest; run = keepbest.Client({client.connection.address.target!r}).start_run({project!r}, 'r', "
        "{'filepath': 'm.bin', 'save_best_only': True}); print(run.report_epoch(0, {'vall_loss': 0.3}).action)"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{keepbest.SKIP}\n", done.stderr


def test_an_unknown_direction_has_the_near_miss_of_a_usual_metric(client, project):
    with pytest.raises(keepbest.InvalidArgument, match=r"mode `max`.* Did you mean monitor `val_auc`[?]$"):
        client.start_run(project, "r", keepbest.strategy("m.bin", "vall_auc"))
    with pytest.raises(keepbest.InvalidArgument, match=r"Did you mean monitor `val_mine`[?]$"):
        client.start_run(project, "r", keepbest.strategy("m.bin", "vall_mine"), metric_directions={"mine": "up"})
    with pytest.raises(keepbest.InvalidArgument, match=r"mode `max`$"):
        client.start_run(project, "r", keepbest.strategy("m.bin", "reward"))


def callback_of(server, project, folder, template, **arguments):
    return plain.Callback(folder / template, server=server.address, project=project, run="r", **arguments)


def test_a_callback_tells_a_misspelt_monitor_once_with_the_near_miss(server, project, tmp_path):
    callback = callback_of(server, project, tmp_path, "{loss:.2f}", monitor="losss", save_best_only=True)
    with pytest.warns(UserWarning) as caught:
        plain.fit(callback, 3)
    said = [str(it.message) for it in caught if "losss`" in str(it.message)]
    assert said == [
        "Keepbest: epoch 1 has no `losss`, which the run monitors: it has `loss`; is that the one? Then pass "
        'monitor="loss"'
    ]


def test_a_callback_by_batches_tells_a_misspelt_monitor_too(server, project, tmp_path):
    callback = callback_of(server, project, tmp_path, "{epoch}", monitor="los", save_freq=1)
    with pytest.warns(UserWarning, match="epoch 1, batch 1 has no `los`, which the run monitors: it has `loss`"):
        plain.fit(callback, 1)


@pytest.mark.parametrize("monitor", ["loss", "val_loss"])
def test_a_callback_whose_logs_have_no_near_miss_is_told_nothing_of_it(server, project, tmp_path, monitor):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.fit(callback_of(server, project, tmp_path, "{epoch}", monitor=monitor), 2)
