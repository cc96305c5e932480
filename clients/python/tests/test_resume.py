"""Where a training goes on: the epoch and the weights fit together, whatever moment its former process died at."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from training import Drive, X, Y, model, names

import keepbest
from keepbest.keras import ModelCheckpoint
from keepbest.run import Run


@pytest.fixture
def make(server, project, tmp_path):
    def make(template="m-{epoch:02d}.weights.h5", **arguments):
        arguments = {"server": server.address, "project": project, "run": "r", "retry_seconds": 20.0, **arguments}
        arguments.setdefault("save_weights_only", template.endswith(".weights.h5"))
        return ModelCheckpoint(str(tmp_path / "out" / template), **arguments)

    return make


class Preempted(BaseException):
    """Ends a training as the death of its process does."""


def weights(made):
    return [np.array(weight) for weight in made.get_weights()]


def trained(callback, epochs, dies_at=None, values=None):
    """Train so many epochs, and return the weights after each. In epoch `dies_at` the process dies in the upload."""
    drive = Drive(callback)
    after = []
    for epoch in range(epochs):
        drive.model.train_on_batch(X, Y)
        after.append(weights(drive.model))
        if epoch == dies_at:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Preempted):
                patch.setattr(Run, "save", die)
                drive.epoch(epoch, val_loss=0.5)
            return after
        drive.epoch(epoch, val_loss=values[epoch] if values else 0.5)
    return after


def die(*_, **__):
    raise Preempted


def same(made, expected):
    return all(np.array_equal(left, right) for left, right in zip(made.get_weights(), expected, strict=True))


@pytest.mark.parametrize(
    "template", ["m-{epoch:02d}.weights.h5", "{epoch:02d}/m.weights.h5", "m-{epoch}.keras", "m.h5"]
)
def test_after_a_preemption_in_an_upload_that_epoch_is_trained_again(make, tmp_path, template):
    after = trained(make(template), 3, dies_at=2)
    again, made = make(template), model()
    assert again.resume(made) == 2 == again.initial_epoch()
    assert same(made, after[1])
    assert not [name for name in names(tmp_path / "out") if ".keepbest-resume" in name or "keepbest-pull" in name]


def test_after_a_preemption_in_the_first_epoch_it_begins_anew(make):
    trained(make(), 1, dies_at=0)
    made = model()
    before = weights(made)
    again = make()
    assert again.resume(made) == 0 and same(made, before)
    Drive(again, made=made).epoch(0, val_loss=0.5).end()
    assert make().initial_epoch() == 1


def test_with_save_best_only_it_goes_on_from_the_best(make):
    after = trained(make("best.weights.h5", save_best_only=True), 4, values=[0.5, 0.4, 0.9, 0.8])
    made = model()
    assert make("best.weights.h5", save_best_only=True).resume(made) == 2 and same(made, after[1])


def test_a_whole_model_brings_its_optimizer_back(make):
    drive = Drive(make("m.keras"), made=model("adam"))
    drive.epoch(0, val_loss=0.5)
    made = model("adam")
    assert make("m.keras").resume(made) == 1
    assert int(made.optimizer.iterations) == int(drive.model.optimizer.iterations) == 1
    for left, right in zip(made.optimizer.variables, drive.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.array(left), np.array(right))


def test_saves_by_batches_go_on_in_the_epoch_of_the_newest(make):
    drive = Drive(make("m-{epoch}-{batch}.weights.h5", save_freq=2))
    callback = drive.callbacks[0]
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for batch in range(3):
            callback.on_train_batch_end(batch, {"loss": 0.5})
        callback.on_epoch_end(epoch, {"loss": 0.5})
    made = model()
    assert make("m-{epoch}-{batch}.weights.h5", save_freq=2).resume(made) == 1
    assert same(made, drive.model.get_weights())


def test_of_runs_that_share_an_artifact_each_goes_on_with_its_own(make):
    after = trained(make(artifact="shared"), 1)
    trained(make(artifact="shared", run="other"), 3)
    made = model()
    assert make(artifact="shared").resume(made) == 1 and same(made, after[0])


def test_a_new_run_and_a_copy_leave_the_model_as_it_is(make):
    made = model()
    before = weights(made)
    assert make().resume(made) == 0
    trained(make(), 1)
    assert copy.deepcopy(make()).resume(made) == 0
    assert same(made, before)


def test_a_run_whose_artifact_was_deleted_begins_anew_and_says_so_once(make, client, project):
    trained(make(), 2)
    client.delete_artifact(f"{project}/run-r-model", force=True)
    again, made = make(), model()
    before = weights(made)
    with pytest.warns(UserWarning) as told:
        assert again.resume(made) == 0 == again.initial_epoch()
    assert same(made, before) and again.run_name in repr(client.run(again.run_name))
    (text,) = [str(it.message) for it in told if it.category is UserWarning]
    assert text == (
        f"Keepbest: the artifact of run `{again.run_name}`, which has reported epoch 2, was deleted: there is nothing "
        "to resume from, so the training begins at epoch 1, and with a new artifact"
    )
    Drive(again, made=made).epoch(0, val_loss=0.5).end()
    assert [version.epoch for version in client.versions(f"{project}/run-r-model")] == [0]
    assert make().initial_epoch() == 1


def test_elsewhere_a_run_whose_artifact_was_deleted_has_no_version_to_go_on_from(client, project, tmp_path):
    (tmp_path / "m.bin").write_bytes(b"weights")
    rule = keepbest.strategy("m-{epoch}.bin", "loss", mode="min")
    first = client.start_run(project, "r", rule)
    first.save(first.report_epoch(0, {"loss": 0.5}), tmp_path / "m.bin")
    first.finish()
    client.delete_artifact(f"{project}/run-r-model")
    with pytest.raises(ValueError, match=r"the name of the artifact is empty, as `Run[.]artifact`"):
        list(client.versions(client.run(first.name).artifact))
    again = client.start_run(project, "r", rule)
    assert (again.resumed, again.resume_from, again.next_epoch) == (True, None, 0)
    assert again.resource.artifact.endswith("/run-r-model")


def test_elsewhere_the_next_epoch_fits_to_the_version_to_go_on_from(client, project, tmp_path):
    (tmp_path / "m.bin").write_bytes(b"weights")
    rule = keepbest.strategy("m-{epoch}.bin", "loss", mode="min")
    first = client.start_run(project, "r", rule)
    first.save(first.report_epoch(0, {"loss": 0.5}), tmp_path / "m.bin")
    first.report_epoch(1, {"loss": 0.4})  # then the process dies
    again = client.start_run(project, "r", rule)
    assert again.resume_from is not None
    assert (again.next_epoch, again.resume_from.epoch, again.resource.last_epoch) == (1, 0, 1)
    first = client.start_run(project, "batches", keepbest.strategy("m", "loss", mode="min", save_freq=1))
    first.save(first.report_batch(3, 7, {"loss": 0.5}), tmp_path / "m.bin")
    assert client.start_run(project, "batches", first.resource.strategy).next_epoch == 3
