"""What runs, versions and decisions look like in a notebook: whole HTML, bounded, with no call and no error."""

from __future__ import annotations

import io
import math
import sys
from xml.etree import ElementTree

import pytest
from conftest import random_file

import keepbest
from keepbest import _html, _progress
from keepbest._curve import Curve, thinned
from keepbest._notebook import never_raises, run_html, short, version_html
from keepbest.types import Action, Artifact, Decision, Event, EventKind, RunResource, Strategy, Version

HOSTILE = '"><script>alert(1)</script>&amp;\x00\u202e'
# What a notebook's page could run or fetch.
ALIVE = {"script", "style", "link", "img", "iframe", "object", "a"}


def elements_of(html: str | None) -> list[ElementTree.Element]:
    """All elements of HTML that is closed everywhere, and in which nothing lives."""
    assert html is not None
    root = ElementTree.fromstring(html)
    elements = list(root.iter())
    assert {it.tag.rpartition("}")[2] for it in elements}.isdisjoint(ALIVE)
    for element in elements:
        assert not [name for name in element.attrib if name.startswith("on") or name in ("href", "src")]
        assert "url(" not in element.get("style", "")
    return elements


def words_of(html: str | None) -> str:
    return " ".join(" ".join(it.itertext()) for it in elements_of(html)[:1])


def trained(client, project, tmp_path, losses, **more):
    """A run that is still active, and the losses that it was told."""
    rule = keepbest.strategy("m-{epoch}.bin", monitor="loss", save_best_only=True)
    run = client.start_run(project, "r", rule, **more)
    random_file(tmp_path / "m.bin", 2_000)
    for epoch, loss in enumerate(losses):
        decision = run.report_epoch(epoch, {"loss": loss})
        if decision.action == keepbest.SAVE:
            run.save(decision, tmp_path / "m.bin")
    return run


def test_a_run_shows_its_curve_and_its_saves_without_asking_the_server(own_server, project, tmp_path):
    with keepbest.Client(own_server.address, timeout=30) as client:
        run = trained(client, project, tmp_path, [0.9, 0.5, 0.7, 0.4])
        own_server.kill()
        html = run._repr_html_()
    words = words_of(html)
    assert f"{project}/r" in words and "active" in words
    assert "loss 0.4 (v2)" in words and "last epoch 3" in " ".join(words.split())
    [line] = [it for it in elements_of(html) if it.tag.endswith("polyline")]
    assert len(line.get("points").split()) == 4
    titles = [it.text for it in elements_of(html) if it.tag.endswith("title")]
    assert titles == ["loss over epochs", "now", "v0: 0.9", "v1: 0.5", "v2: 0.4"]


def test_a_history_is_what_the_run_showed(client, project, tmp_path):
    losses = [0.9, 0.5, 0.7, 0.4]
    trained(client, project, tmp_path, losses).finish()
    history = client.history(f"{project}/r")
    assert history.values == list(enumerate(losses)) and history.is_whole
    assert history.curve.saved == {(0, -1): 0, (1, -1): 1, (3, -1): 2}
    words = words_of(history._repr_html_())
    assert "finished" in words and "loss 0.4" in words
    assert repr(history) == f"History(run='{history.run.name}', metric='loss')"
    assert "no event has a finite acc" in words_of(client.history(f"{project}/r", "acc")._repr_html_())
    # What is read in one go shows no curve, and says where there is one.
    run = client.run(f"{project}/r")
    assert f"client.history('{project}/r')" in words_of(run._repr_html_())
    assert not [it for it in elements_of(run._repr_html_()) if it.tag.endswith("polyline")]


def test_a_later_attempt_takes_the_place_of_the_epochs_that_it_repeats(client, project, tmp_path):
    trained(client, project, tmp_path, [0.9, 0.5, 0.7])
    again = client.start_run(project, "r", keepbest.strategy("m-{epoch}.bin", monitor="loss", save_best_only=True))
    assert again.next_epoch == 2
    assert "loss 0.5" in words_of(again._repr_html_()), "its best is known before it reports"
    again.report_epoch(2, {"loss": 0.6})
    assert client.history(f"{project}/r").values == [(0, 0.9), (1, 0.5), (2, 0.6)]


def test_batches_are_drawn_where_they_decide(client, project):
    rule = keepbest.strategy("m.bin", monitor="loss", save_freq=2, mode="min")
    run = client.start_run(project, "b", rule)
    for batch in range(4):
        decision = run.report_batch(0, batch, {"loss": 1.0 / (batch + 1)})
        if decision is not None:
            run.abandon(decision)
    titles = [it.text for it in elements_of(run._repr_html_()) if it.tag.endswith("title")]
    assert titles[0] == "loss over batches"
    run.finish()
    assert len(client.history(f"{project}/b").values) == 4


def test_lists_are_tables(client, project, tmp_path):
    run = trained(client, project, tmp_path, [0.9, 0.5, 0.7, 0.4])
    artifact = f"{project}/run-r-model"
    versions = keepbest.table(client.versions(artifact))
    assert [it.number for it in versions] == [2, 1, 0] and versions.is_whole
    rows = [it for it in elements_of(versions._repr_html_()) if it.tag == "tr"]
    assert len(rows) == 4
    words = words_of(versions._repr_html_())
    assert f"{artifact}:v2" in words and "loss 0.4" in words and "best" in words and "2.0 KiB" in words
    first = keepbest.table(client.versions(artifact), limit=2)
    assert len(first) == 2 and "the first 2: there are more" in words_of(first._repr_html_())
    decisions = words_of(keepbest.table(client.decisions(run.name))._repr_html_())
    assert "skip" in decisions and "committed" in decisions
    assert "alive" in words_of(keepbest.table(client.runs(project))._repr_html_())
    assert artifact in words_of(keepbest.table(client.artifacts(project))._repr_html_())
    assert "epoch_3" in words_of(keepbest.table(client.aliases(artifact))._repr_html_())
    assert "nothing" in words_of(keepbest.table([])._repr_html_())
    one = words_of(client.version(f"{artifact}:best")._repr_html_())
    assert f"{artifact}:v2" in one and "2.0 KiB in 1 file " in one + " "
    assert "SAVE at epoch 3" in words_of(list(client.decisions(run.name))[-1]._repr_html_())


def curve_of(count: int) -> Curve:
    curve = Curve(Strategy(monitor="loss"))
    for epoch in range(count):
        loss = 1 + math.sin(epoch)
        loss = {count // 3: 500.0, count // 2: -700.0}.get(epoch, loss)
        curve.add(Event(kind=EventKind.EVENT_KIND_EPOCH_END, epoch=epoch, metrics={"loss": loss}))
    return curve


def test_a_long_run_costs_no_more_than_can_be_seen_and_keeps_its_extremes():
    curve = curve_of(100_000)
    assert len(curve.points(10**9)) < 2_000
    values = [value for _, value in curve.points(300)]
    assert len(values) <= 300 and max(values) == 500.0 and min(values) == -700.0
    assert thinned([((it, -1), 0.0) for it in range(3)], 0) == [((it, -1), 0.0) for it in range(3)]
    for version in range(1_000):
        curve.note_saved(Decision(epoch=version, improvement=True, value=1.0), Version(number=version))
    assert len(curve.saved) == 200 and min(curve.saved) == (800, -1)
    dense = Curve(Strategy(monitor="loss"))
    for epoch in range(1_500):
        dense.add(Event(kind=EventKind.EVENT_KIND_EPOCH_END, epoch=epoch, metrics={"loss": -1.0 * epoch}))
        dense.note_saved(Decision(epoch=epoch, improvement=True, value=-1.0 * epoch), Version(number=epoch))
    drawn = elements_of(_html.curve(dense, -1_499.0))
    assert len([it for it in drawn if it.tag.endswith("circle")]) == 200 + 2, "no save is thinned out"
    table = keepbest.table(
        (Version(name=str(it), metrics={str(of): 0.1 for of in range(99)}) for it in range(9_999)), 5_000
    )
    html = table._repr_html_()
    assert len(html) < 1_500_000 and len([it for it in elements_of(html) if it.tag == "tr"]) == 1_001


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, 0.0])
def test_no_value_breaks_a_drawing(value, client, project):
    run = client.start_run(project, "r", keepbest.strategy("m.bin", monitor="loss", mode="min"))
    for epoch, loss in enumerate([1.7e308, value, -1.7e308, value]):
        run.abandon(run.report_epoch(epoch, {"loss": loss}))
    assert "nan" not in run._repr_html_().lower() and "inf" not in run._repr_html_().lower()
    elements_of(run._repr_html_())
    elements_of(client.history(run.name)._repr_html_())


def strange(kind):
    """A message with a value in each plain field that no server sends."""
    of_type = {"TYPE_STRING": HOSTILE * 100, "TYPE_BYTES": b"\xff" * 32, "TYPE_DOUBLE": -math.inf, "TYPE_ENUM": 99}
    message = kind()
    types = {
        getattr(field, it): it for field in message.DESCRIPTOR.fields for it in dir(field) if it.startswith("TYPE_")
    }
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if hasattr(value, "append") and field.message_type is None:
            value.extend([HOSTILE] * 100)
        elif field.message_type is None:
            setattr(message, field.name, of_type.get(types[field.type], field.type == field.TYPE_BOOL or -1))
        elif field.message_type.name == "Timestamp":
            value.seconds = 1 << 60
    if kind is Version:
        message.metrics[HOSTILE] = math.nan
    return message


@pytest.mark.parametrize("kind", [RunResource, Version, Decision])
def test_what_others_called_things_runs_nowhere(kind):
    for message in (strange(kind), kind()):
        for html in (message._repr_html_(), keepbest.table([message])._repr_html_()):
            elements_of(html)
            assert "<script" not in html and len(html) < 40_000
    hostile = Curve(Strategy(monitor=HOSTILE))
    hostile.add(Event(kind=EventKind.EVENT_KIND_EPOCH_END, epoch=0, metrics={HOSTILE: 1.0}))
    assert "<script" not in keepbest.table([Artifact(name=HOSTILE)])._repr_html_()


def test_what_cannot_be_shown_is_shown_as_text_instead():
    @never_raises
    def fails(shown):
        raise ValueError(shown)

    assert fails(1) is None  # then IPython prints `repr`
    assert version_html(Version(number=3)) and run_html(RunResource())
    assert short("teams/t/projects/p/artifacts/a/versions/v3") == "t/p/a:v3"
    assert short("teams/t/projects/p/runs/r") == "t/p/r" and short("other") == "other"
    assert Action.ACTION_SAVE == keepbest.SAVE


def test_a_notebooks_stream_shows_a_bar_and_a_plain_file_does_not(client, project, tmp_path, monkeypatch):
    """ipykernel's stream says that it is no terminal."""
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(_progress, "_PATIENCE_SECONDS", 0.0)
    random_file(tmp_path / "m.bin", 3 << 20)
    for kind, seen in [(stream, True), (io.StringIO, False)]:
        shown = kind()
        monkeypatch.setattr(sys, "stderr", shown)
        client.push(tmp_path / "m.bin", f"{project}/a")
        assert ("uploading [" in shown.getvalue()) is seen
        assert not shown.getvalue().rstrip("\r").endswith("]"), "it leaves no trace"
