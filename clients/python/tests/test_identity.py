"""Which run a callback reports to: copies, folds, two callbacks in one training, and ranks."""

from __future__ import annotations

import copy
import json
import pickle
import re

import plain
import pytest
from conftest import nothing_told
from training import Drive, model, names, versions

import keepbest
from keepbest import __main__
from keepbest.keras import ModelCheckpoint
from keepbest.ranks import training_rank
from keepbest.types import EventKind


@pytest.fixture
def make(server, project, tmp_path, monkeypatch):
    monkeypatch.delenv("KEEPBEST_RUN", raising=False)

    def make(template="m-{epoch:02d}.weights.h5", **arguments):
        arguments = {"server": server.address, "project": project, "retry_seconds": 20.0, **arguments}
        arguments.setdefault("save_weights_only", template.endswith(".weights.h5"))
        return ModelCheckpoint(str(tmp_path / "out" / template), **arguments)

    return make


def pickled(callback):
    return pickle.loads(pickle.dumps(callback))


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, pickled])
@pytest.mark.parametrize("given", [False, True])
def test_copies_are_runs_of_their_own_whatever_the_original_has_done(client, make, how, given):
    shared = {"client": keepbest.Client(client.connection.address.target)} if given else {}
    original = make(run="sweep", save_best_only=True, **shared)
    original.initial_epoch()
    drive = Drive(original).epoch(0, val_loss=0.1)
    first, second = how(original), how(original)
    drive.epoch(1, val_loss=0.05).end()
    assert len({callback.run_name for callback in (original, first, second)}) == 3
    assert "/sweep-" in first.run_name and first.initial_epoch() == 0
    for number, value in ((first, 0.9), (second, 0.8)):
        assert number.best is None
        Drive(number, made=drive.model).epoch(0, val_loss=value).end()
        assert number.best == value and len(versions(client, number)) == 1
    assert original.best == 0.05


def test_copies_are_the_same_run_where_they_are_told_so(client, make):
    original = make(run="one", copies="same", save_best_only=True, initial_value_threshold=0.5)
    copied = copy.deepcopy(original)
    assert copied.run_name == original.run_name and copied.best == 0.5
    with pytest.raises(ValueError, match="copies `each` is neither `own` nor `same`"):
        make(copies="each")


def test_a_copy_of_a_callback_without_a_name_has_another_random_one(make):
    original = make()
    copied = copy.deepcopy(original)
    assert copied.run_name != original.run_name and "/run-" in copied.run_name


def test_an_old_run_that_goes_on_at_epoch_0_is_told_loudly(client, make):
    made = model()
    Drive(make(run="cv", save_best_only=True), made=made).epoch(0, val_loss=0.1).end()
    fold = make(run="cv", save_best_only=True)
    with pytest.warns(
        UserWarning, match=r"runs/cv` is an old one, .* resumes it at epoch 1 and goes on with its best, 0.1"
    ):
        Drive(fold).epoch(0, val_loss=0.5).end()
    with nothing_told():
        goes_on = make(run="cv", save_best_only=True)
        Drive(goes_on, made=made).epoch(goes_on.resume(made), val_loss=0.05).end()


def test_fit_called_twice_goes_on_and_another_model_is_told(client, make):
    callback = make(save_best_only=True)
    drive = Drive(callback).epoch(0, val_loss=0.2)
    drive.end()
    run = callback.run_name
    with nothing_told():
        Drive(callback, made=drive.model).epoch(0, val_loss=0.3).epoch(1, val_loss=0.1).end()
    assert callback.run_name == run and [version.epoch for version in versions(client, callback)] == [1, 0]
    with pytest.warns(UserWarning, match="is an old one"):
        Drive(callback).epoch(0, val_loss=0.5).end()


def test_two_callbacks_of_one_training_work_together_under_one_name(client, make, capsys):
    def both():
        return make("best.weights.h5", run="two", save_best_only=True), make("m-{epoch}.weights.h5", run="two")

    best, each = both()
    drive = Drive(best, each).epoch(0, val_loss=0.1).epoch(1, val_loss=0.2)
    drive.end()
    assert (best.run_name.rpartition("/")[2], each.run_name.rpartition("/")[2]) == ("two", "two-each")
    assert "because another callback of this training saves to run `two`" in capsys.readouterr().out
    assert [version.epoch for version in versions(client, best)] == [0]
    assert [version.epoch for version in versions(client, each)] == [1, 0]
    # After a restart each finds its own, whoever is asked.
    best, each = both()
    assert (best.initial_epoch(), each.initial_epoch()) == (1, 2)
    Drive(best, each, made=drive.model).epoch(2, val_loss=0.05).end()
    assert [version.epoch for version in versions(client, best)] == [2, 0]
    assert [version.epoch for version in versions(client, each)] == [2, 1, 0]


def test_two_monitors_of_one_training_are_two_runs(client, make):
    first = make("a-{epoch}.weights.h5", run="m", save_best_only=True)
    second = make("b-{epoch}.weights.h5", run="m", save_best_only=True, monitor="val auc", mode="max")
    Drive(first, second).epoch(0, **{"val_loss": 0.1, "val auc": 0.7}).end()
    assert second.run_name == first.run_name + "-val-auc"
    assert client.best(first.run_name).metrics["val_loss"] == 0.1
    assert client.best(second.run_name).metrics["val auc"] == 0.7


@pytest.mark.parametrize(
    ("environment", "told", "place"),
    [
        ({}, True, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, False, (3, 4)),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "8"}, False, (1, 8)),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}'}, False, (1, 2)),
        ({"TF_CONFIG": '{"cluster": {"chief": ["a"], "worker": ["b"]}, "task": {"type": "worker"}}'}, False, (1, 2)),
        ({"TF_CONFIG": '{"cluster": {"chief": ["a"]}, "task": {"type": "evaluator"}}'}, False, (0, 1)),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, True, (1, 2)),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, False, (0, 1)),
    ],
)
def test_ranks_are_found_in_the_environment(monkeypatch, environment, told, place):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert training_rank(told=told)[:2] == place


@pytest.mark.parametrize("environment", [{"RANK": "x", "WORLD_SIZE": "2"}, {"TF_CONFIG": "[1"}, {"TF_CONFIG": "3"}])
def test_a_rank_that_cannot_be_read_ends_no_training(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match=f"environment's {next(iter(environment))} is .*as if it trained alone"):
        assert training_rank(told=True)[:2] == (0, 1)


def test_of_several_ranks_one_saves(client, make, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks = [make(run="ranks"), make(run="ranks")]
    drives = []
    for rank, callback in enumerate(ranks):
        monkeypatch.setenv("RANK", str(rank))
        drives.append(Drive(callback))
    for epoch in range(2):
        for drive in drives:
            drive.epoch(epoch, val_loss=0.5)
    for drive in drives:
        drive.end()
    assert "this is rank 1 of 2 (the environment's RANK); rank 0 reports and saves" in capsys.readouterr().out
    assert names(tmp_path / "out") == ["m-01.weights.h5", "m-02.weights.h5"]
    run = client.run(ranks[0].run_name)
    assert run.attempt == 1 and [version.epoch for version in versions(client, ranks[0])] == [1, 0]
    assert ranks[1].resume(drives[1].model) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"run": "fold 1"}, "run id `fold 1` is not valid"),
        ({"run": "x" * 129}, "run id `x+` is not valid"),
        ({"run": ".."}, "is not valid"),
        ({"run": "teams/t/runs/r"}, "neither an id nor `teams/"),
        ({"project": "my team/p"}, "team id `my team` is not valid"),
        ({"artifact": "a/b"}, "artifact id `a/b` is not valid"),
        ({"template": "m-{epoch:zz}.weights.h5"}, "field `epoch` cannot be printed with `zz`"),
        ({"template": "m-{epoch.weights.h5"}, "is no template: "),
        ({"template": "m-{}.weights.h5"}, "is no plain name"),
        ({"template": "m-{a[0]}.weights.h5"}, "is no plain name"),
        ({"template": "m" * 1025 + ".weights.h5"}, "has more than 1024 bytes"),
        ({"monitor": "x" * 257}, "is no name of a metric"),
        ({"monitor": "a\nb"}, "is no name of a metric"),
        ({"initial_value_threshold": float("nan")}, "initial_value_threshold is NaN"),
        ({"min_delta": -0.1}, "min_delta `-0.1` is no distance"),
        ({"grace_seconds": -1}, "grace_seconds `-1` is negative"),
    ],
)
def test_what_can_be_known_when_the_callback_is_made_is_said_then(make, arguments, text):
    with pytest.raises(ValueError, match=text):
        make(**arguments)


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("KEEPBEST_PROJECT", "", "KEEPBEST_PROJECT is empty: set it to `team/project`, or unset it"),
        ("KEEPBEST_PROJECT", "x", "KEEPBEST_PROJECT is wrong: project `x` is neither `team/project` nor"),
        ("KEEPBEST_ADDRESS", " ", "KEEPBEST_ADDRESS is empty: set it to host:port, http://host:port or https"),
        ("KEEPBEST_PROJECT", "a b/c d", "KEEPBEST_PROJECT is wrong: team id `a b` is not valid: an id is 1 to 128"),
        ("KEEPBEST_ADDRESS", "x y", "KEEPBEST_ADDRESS is wrong: address `x y` is not host:port, http"),
        ("KEEPBEST_ADDRESS", "ftp://h", "KEEPBEST_ADDRESS is wrong: address `ftp://h` is not host:port, http"),
        ("KEEPBEST_RUN", "", "KEEPBEST_RUN is empty: set it to the id of a run, or unset it"),
        ("KEEPBEST_RUN", "a b", "KEEPBEST_RUN is wrong: run id `a b` is not valid"),
        ("KEEPBEST_RUN", "teams/t/runs/r", "KEEPBEST_RUN is wrong: run `teams/t/runs/r` is neither an id nor"),
    ],
)
def test_a_variable_that_is_empty_or_wrong_is_named(monkeypatch, capsys, variable, value, text):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=re.escape(f"the environment's {text}")):
        plain.Callback("m.txt")
    if variable != "KEEPBEST_RUN":
        with pytest.raises(ValueError, match=re.escape(text)):
            keepbest.Client()
        assert __main__.main(["sync", "."]) == 1
        assert text in capsys.readouterr().err
    # An argument is in its place, so what the variable says does not matter.
    told = plain.Callback("m.txt", project="t/p", run="r", server="h:1")
    assert told.run_name == "teams/t/projects/p/runs/r"


def test_full_names_of_runs_are_taken(make):
    assert make(run="teams/t/projects/p/runs/r").run_name == "teams/t/projects/p/runs/r"


def test_odd_config_and_metadata_are_told_when_the_callback_is_made(make):
    with pytest.warns(UserWarning, match="config `x` holds nan"):
        make(config={"x": float("nan")})
    with pytest.warns(UserWarning, match="metadata may have 64 KiB as JSON, so 1 of its entries are left out: `x`"):
        callback = make(metadata={"x": "x" * (1 << 20), "y": 1})
    assert json.dumps(callback._metadata) == '{"y": 1}'


def test_every_so_many_epochs(client, make, tmp_path):
    callback = make(every_epochs=2)
    drive = Drive(callback)
    for epoch in range(5):
        drive.epoch(epoch, val_loss=0.5 - epoch / 10)
    drive.end()
    assert names(tmp_path / "out") == ["m-02.weights.h5", "m-04.weights.h5"]
    assert [decision.epoch for decision in client.decisions(callback.run_name)] == [1, 3]
    ends = [
        event.event for event in client.events(callback.run_name) if event.event.kind == EventKind.EVENT_KIND_EPOCH_END
    ]
    assert sorted(event.epoch for event in ends) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="every_epochs `0` is no number of epochs"):
        make(every_epochs=0)


@pytest.mark.parametrize(
    ("template", "arguments", "text"),
    [
        ("m-{epch}.weights.h5", {}, r"nothing known is called `{epch}`, did you mean `{epoch}`"),
        ("m-{epoch}-{batch}.weights.h5", {}, "`{batch}` has no value at the end of an epoch"),
        ("m-{val_loss}.weights.h5", {"save_freq": 2}, "`{val_loss}` has no value at the end of a batch"),
    ],
)
def test_a_placeholder_that_will_have_no_value_is_told_when_the_callback_is_made(make, template, arguments, text):
    with pytest.warns(UserWarning, match=text):
        make(template, **arguments)


def test_a_misspelt_metric_is_told_at_the_first_batch(make):
    callback = make("m-{epoch}-{mine:.2f}-{val_acuracy:.2f}.weights.h5")
    drive = Drive(callback)
    with pytest.warns(UserWarning, match=r"`{val_acuracy}`, did you mean `{val_accuracy}`") as told:
        callback.on_train_batch_end(0, {"loss": 1.0, "accuracy": 0.5})
    assert "`{mine}`" not in str(told[0].message)
    with pytest.raises(KeyError, match=re.escape(f'callback filepath: "{callback.filepath}"')):
        drive.epoch(0, val_loss=0.5)


def test_a_directory_in_the_way_is_told_with_the_path_as_keras_names_it(make, tmp_path, monkeypatch):
    (tmp_path / "out/m-01.weights.h5/x").mkdir(parents=True)
    text = "Filepath used is an existing directory: "
    path = f"{tmp_path}/out/m-01.weights.h5"
    with pytest.raises(OSError, match=re.escape(text + path) + "$"):
        Drive(make()).epoch(0, val_loss=0.5)
    callback = make(run="other")

    def old_h5py(path):
        raise OSError("Unable to create file: Is a directory")

    monkeypatch.setattr(callback, "_write", old_h5py)
    with pytest.raises(OSError, match=re.escape(f"{text}f{path}") + "$"):
        Drive(callback).epoch(0, val_loss=0.5)
