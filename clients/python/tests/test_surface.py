"""What a user of the client sees: names, lists, prints, types, and what importing it costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal

import grpc
import numpy as np
import pytest
from conftest import Interposer, Refused, random_file

import keepbest
from keepbest import names
from keepbest.types import File, MonitorState, RunResource, RunState

EVERY = keepbest.strategy("m.bin", monitor="loss", mode="min")


def python_of(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_client_imports_next_to_nothing():
    code = "import sys; before = set(sys.modules); import keepbest; print(*sorted(set(sys.modules) - before))"
    imported = python_of(code).split()
    assert "keepbest" in imported
    assert len(imported) <= 3, imported


def test_every_name_is_there_in_whatever_order_modules_are_imported():
    for first in ("", "import keepbest.client", "import keepbest.strategy", "from keepbest.strategy import strategy"):
        used = "keepbest.strategy('m.bin').filepath, keepbest.SAVE, keepbest.Client('h:1')"
        code = f"{first}\nimport keepbest\nprint({used})"
        assert python_of(code) == "m.bin 1 Client('http://h:1', project='default/default')\n"
    assert {name for name in keepbest.__all__ if not hasattr(keepbest, name)} == set()
    assert set(keepbest.__all__) <= set(dir(keepbest))
    with pytest.raises(AttributeError, match="no attribute `Clinet`"):
        keepbest.Clinet  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+", keepbest.__version__)


def test_grpc_survives_a_fork_though_it_is_imported_later():
    code = "import keepbest, os; print(os.environ['GRPC_ENABLE_FORK_SUPPORT'])"
    assert python_of(code) == "1\n"


def test_short_names_are_looked_up_in_the_clients_project(server, project, tmp_path, monkeypatch):
    monkeypatch.setenv("KEEPBEST_PROJECT", project)
    client = keepbest.Client(server.address, timeout=30)
    random_file(tmp_path / "m.bin", 10)
    with client.start_run(run="r", strategy=EVERY) as run:
        version = run.save(run.report_epoch(0, {"loss": 1.0}), tmp_path / "m.bin")
    assert version.name.startswith(names.project_name(project))
    whole = f"{project}/run-r-model"
    for artifact in ("run-r-model", whole, run.resource.artifact):
        assert [it.name for it in client.versions(artifact)] == [version.name]
        for alias in ("best", "v0"):
            assert client.version(f"{artifact}:{alias}").name == version.name
            assert client.pull(f"{artifact}:{alias}", tmp_path / "out").name == version.name
        assert client.set_alias(f"{artifact}:v0", "shown").name == version.name
        assert client.artifact(artifact).version_count == 1
    for name in ("r", f"{project}/r", run.name):
        assert client.run(name).name == run.name
        assert len(list(client.decisions(name))) == len(list(client.events(name))) == 1
    other = keepbest.Client(server.address, project="tests/other", timeout=30)
    with pytest.raises(keepbest.NotFound):
        other.run("r")
    for wrong in ("a/b", "t//r", "", "teams/t/projects/p/artifacts/a"):
        with pytest.raises(ValueError, match="is none of `run`"):
            client.run(wrong)
    with pytest.raises(ValueError, match="project `x` is neither"):
        keepbest.Client(project="x")


def test_runs_and_artifacts_of_a_project_and_of_a_team_are_listed(client, project):
    for run in ("a", "b"):
        client.start_run(project, run, EVERY)
    client.start_run(f"{project}-2", "c", EVERY)
    prefix = names.project_name(project)
    assert [run.name for run in client.runs(project, page_size=1)] == [f"{prefix}/runs/b", f"{prefix}/runs/a"]
    ids = [artifact.name for artifact in client.artifacts(project, page_size=1)]
    assert sorted(ids) == [f"{prefix}/artifacts/run-{run}-model" for run in ("a", "b")]
    assert {f"{prefix}/runs/a", f"{prefix}-2/runs/c"} <= {run.name for run in client.runs("tests")}
    assert f"{prefix}-2/artifacts/run-c-model" in {artifact.name for artifact in client.artifacts("tests")}


def test_push_stores_a_version_that_delete_removes(client, project, tmp_path):
    data = random_file(tmp_path / "m-{epoch}.bin", 100)
    client.project = project
    first = client.push(tmp_path / "m-{epoch}.bin", "final", metrics={"auc": 0.5}, mode="max", metadata={"by": "hand"})
    assert (first.path, first.epoch, first.metadata["by"]) == ("m-{epoch}.bin", 0, "hand")
    second = client.push({"a/b": tmp_path / "m-{epoch}.bin"}, "final", metrics={"auc": 0.4}, epoch=3)
    assert client.best("/".join((project, "final"))).name == first.name
    assert [version.epoch for version in client.versions("final")] == [3, 0]
    client.pull("final:latest", tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b").read_bytes() == data
    assert client.delete("final:v0") == 100
    assert [version.name for version in client.versions("final")] == [second.name]
    assert client.best("/".join((project, "final"))).name == second.name
    assert {run.state for run in client.runs()} == {2}


def test_aliases_are_set_by_a_push_listed_and_removed(client, project, tmp_path):
    client.project = project
    random_file(tmp_path / "m.bin", 10)
    first = client.push(tmp_path / "m.bin", "a", aliases=["shown", "tried"], metadata={"by": "hand"})
    assert {"shown", "tried", "latest"} <= set(first.aliases) and first.metadata["by"] == "hand"
    second = client.push(tmp_path / "m.bin", "a", aliases=["shown"])
    mine = [it for it in client.aliases("a", page_size=1) if not it.alias.startswith(("epoch_", "latest", "best"))]
    assert [(it.alias, it.version) for it in mine] == [("shown", second.name), ("tried", first.name)]
    assert client.version("a:shown").name == second.name
    client.delete_alias("a", "shown")
    for name in (f"{project}/a", first.name.partition("/versions/")[0]):
        with pytest.raises(keepbest.NotFound):
            client.delete_alias(name, "shown")
    assert client.version("a:v1").name == second.name
    assert client.version("a:tried").name == first.name


NO_NUMBERS = [
    ("high", "'high', a value of type `str`"),
    ("0.9", "'0.9', a value of type `str`"),
    (None, "None"),
    ([1], "[1], a value of type `list`"),
    (np.array([1.0, 2.0]), "array([1., 2.]), a value of type `ndarray`"),
    (np.array("0.9"), "array('0.9', dtype='<U3'), a value of type `ndarray`"),
]


@pytest.mark.parametrize(("value", "shown"), NO_NUMBERS, ids=[shown for _, shown in NO_NUMBERS])
def test_a_push_whose_metric_is_no_number_is_refused_before_anything_is_sent(interposer, tmp_path, value, shown):
    (tmp_path / "m.bin").write_bytes(b"model")
    with keepbest.Client(interposer.address, timeout=30) as client, pytest.raises(TypeError) as failed:
        client.push(tmp_path / "m.bin", "final", metrics={"auc": 0.9, "val_loss": value})
    assert str(failed.value) == f"metric `val_loss` is {shown}: it must be a number"
    assert interposer.calls == []


def test_a_push_takes_the_numbers_of_any_library(client, project, tmp_path):
    (tmp_path / "m.bin").write_bytes(b"model")
    given = {"loss": np.float32(0.5), "one": np.array([0.25]), "whole": 3, "all": np.True_, "exact": Decimal("0.125")}
    metrics = client.push(tmp_path / "m.bin", f"{project}/final", metrics=given).metrics
    assert dict(metrics) == {"loss": 0.5, "one": 0.25, "whole": 3, "all": 1, "exact": 0.125}


@pytest.mark.parametrize(
    ("alias", "text"),
    [
        ("best", "alias `best` belongs to the server, as `latest`, `best`, `epoch_*` and `vN` do: choose another name"),
        ("v12", "alias `v12` belongs to the server"),
        ("epoch_3", "alias `epoch_3` belongs to the server"),
        ("a/b", "alias `a/b` is no name: a name is 1 to 128 of the characters"),
        ("", "alias `` is no name"),
        (3, "`alias` is 3, a value of type `int`: it must be a text"),
    ],
)
def test_an_alias_that_cannot_be_is_refused_before_anything_is_sent(interposer, tmp_path, alias, text):
    client = keepbest.Client(interposer.address, timeout=30)
    random_file(tmp_path / "m.bin", 10)
    for change in (
        lambda: client.push(tmp_path / "m.bin", "a", aliases=[alias]),
        lambda: client.delete_alias("a", alias),
    ):
        with pytest.raises((TypeError, ValueError), match=re.escape(text)):
            change()
    with pytest.raises(TypeError, match=re.escape("`aliases` is 'shown', a value of type `str`: it must be a list")):
        client.push(tmp_path / "m.bin", "a", aliases="shown")
    assert interposer.calls == []


def test_a_push_whose_alias_is_refused_says_that_its_version_is_stored(interposer, project, tmp_path):
    client = keepbest.Client(interposer.address, timeout=30, project=project)
    random_file(tmp_path / "m.bin", 10)

    def refuse(request, forward):
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")

    interposer.hooks["SetAlias"] = refuse
    with pytest.raises(keepbest.PermissionDenied, match=r"NOT_ALLOWED; `.*/versions/v0` is stored all the same"):
        client.push(tmp_path / "m.bin", "a", aliases=["shown"])
    assert client.version("a:latest").number == 0


def test_projects_of_a_team_are_listed(client, project):
    for each in (project, f"{project}-2"):
        client.start_run(each, "r", EVERY)
    for team in ("tests", "teams/tests", project):
        assert {project, f"{project}-2"} <= set(client.projects(team, page_size=1))
    with pytest.raises(ValueError, match="`a/b/c` is neither"):
        list(client.projects("a/b/c"))


def test_runs_artifacts_and_projects_are_deleted_after_a_look_at_what_that_frees(client, project, tmp_path):
    client.project = project
    random_file(tmp_path / "m.bin", 100)
    for epoch in range(3):
        client.push(tmp_path / "m.bin", "a", metrics={"loss": 1.0 - epoch}, epoch=epoch)
    would = client.delete_versions("a", keep_newest=1, dry_run=True)
    assert (would.version_count, len(list(client.versions("a")))) == (2, 3)
    assert client.delete_versions("a", "epoch < 2").version_count == 2
    run = client.start_run(project, "lives", EVERY)
    with pytest.raises(keepbest.FailedPrecondition) as refused:
        client.delete_run("lives", dry_run=True)
    assert refused.value.reason == "RUN_ALIVE"
    assert client.delete_run("lives", force=True).run_count == 1
    with pytest.raises(keepbest.NotFound):
        client.run(run.name)
    assert client.delete_artifact("a").version_count == 1
    with pytest.raises(keepbest.NotFound):
        client.delete_artifact("a")
    assert client.delete_project(project).run_count == 3
    assert project not in set(client.projects())


@pytest.fixture
def loses_answers(server):
    """The address of a server that does what it is asked, but whose first answer to some methods is lost."""

    def lost_once():
        lost = []

        def answer(request, forward):
            answered = forward(request)
            if not lost:
                lost.append(answered)
                raise Refused(grpc.StatusCode.UNAVAILABLE, "LOST")
            return answered

        return answer

    interposer = Interposer(server)
    interposer.hooks.update({name: lost_once() for name in ("DeleteRun", "DeleteAlias", "SetAlias", "FinishRun")})
    yield interposer.address
    interposer.close()


def test_a_change_whose_answer_was_lost_is_no_error_when_it_is_repeated(loses_answers, project, tmp_path):
    client = keepbest.Client(loses_answers, timeout=30, project=project)
    random_file(tmp_path / "m.bin", 10)
    client.push(tmp_path / "m.bin", "a")
    second = client.push(tmp_path / "m.bin", "a")
    assert client.set_alias("a:v1", "shown", expected="none").name == second.name
    with pytest.raises(keepbest.FailedPrecondition) as moved:
        client.set_alias("a:v1", "shown", expected="none")
    assert (moved.value.reason, moved.value.metadata["version"]) == ("ALIAS_MOVED", "v1")
    client.delete_alias("a", "shown")
    with pytest.raises(keepbest.NotFound):
        client.delete_alias("a", "shown")
    client.start_run(project, "r", EVERY)
    assert client.delete_run("r", force=True).run_count == 0


def test_a_version_whose_deletion_was_not_answered_may_be_gone_with_its_artifact(interposer, client, project, tmp_path):
    client.project = project
    random_file(tmp_path / "m.bin", 10)
    client.push(tmp_path / "m.bin", "a")
    tries = []

    def lose_the_first_answer(request, forward):
        tries.append(request)
        answer = forward(request)
        if len(tries) == 1:
            client.delete_artifact("a", force=True)
            raise Refused(grpc.StatusCode.UNAVAILABLE, "LOST")
        return answer

    interposer.hooks["DeleteVersion"] = lose_the_first_answer
    deletes = keepbest.Client(interposer.address, timeout=30, project=project)
    assert (deletes.delete("a:v0"), len(tries)) == (0, 2)
    with pytest.raises(keepbest.NotFound):
        deletes.delete("a:v0")


def test_a_run_that_was_ended_inside_of_with_is_left_so(client, project):
    with client.start_run(project, "r", EVERY) as run:
        run.fail("gave up")
    assert client.run(run.name).state == RunState.RUN_STATE_FAILED


def test_a_filter_that_matches_nothing_because_of_a_name_warns_of_the_near_miss(client, project, tmp_path):
    client.project = project
    random_file(tmp_path / "m.bin", 10)
    client.push(tmp_path / "m.bin", "a", metrics={"val_loss": 0.5})
    with pytest.warns(UserWarning, match="val_loss"):
        assert list(client.versions("a", "metrics.val_los < 1")) == []
    client.start_run(project, "adam", EVERY, config={"optimizer": "adam"})
    assert [it.name.rpartition("/")[2] for it in client.runs(filter='config : "adam"')] == ["adam"]


def test_what_is_printed_can_be_read(client, project, tmp_path):
    random_file(tmp_path / "m.bin", 10)
    run = client.start_run(project, "r", EVERY, config={"lr": 0.1})
    version = run.save(run.report_epoch(0, {"loss": 0.0}), tmp_path / "m.bin")
    shown = repr(client.version(version.name, include_files=True))
    assert shown.startswith(f"Version(name='{version.name}', number=0, run='{run.name}', ")
    for part in (
        "epoch=0, batch=None, step=None, path='m.bin'",
        f"digest={version.digest.hex()}",
        "metrics={'loss': 0.0}",
        "reason=REASON_EVERY_EPOCH",
        "files=[File(path='m.bin', size_bytes=10, ",
    ):
        assert part in shown
    assert re.search(r"create_time=\d{4}-\d\d-\d\dT[\d:.]+Z", shown)
    assert str(version) == repr(version) and "\\0" not in shown
    assert "config={'lr': 0.1}" in repr(client.run("r") if client.project == project else client.run(run.name))
    assert repr(run) == f"Run(name='{run.name}', attempt=1, next_epoch=0)"
    assert repr(MonitorState()) == "MonitorState(best=None, best_checkpoint='', batches_since_save=0, in_flight=[])"
    many = repr(RunResource(monitor_state=MonitorState(in_flight=[str(it) for it in range(12)])))
    assert "'9', ... 2 more]" in many
    assert "state=7" in repr(File(state=7)), "a state that a newer server has"


def test_the_command_takes_the_server_as_the_command_line_does(server, tmp_path):
    environment = os.environ | {"KEEPBEST_ADDRESS": ""}  # which would be an error
    for option in ("--server", "--address"):
        command = [sys.executable, "-m", "keepbest", "sync", option, server.address, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"nothing to sync in `{tmp_path}`\n"), done.stderr
