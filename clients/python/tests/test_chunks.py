"""What is sent of a model that is saved again and again while a part of it changes."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from conftest import Interposer, Proxy, Refused, Server, random_file
from safetensors.numpy import save_file

import keepbest
from keepbest._chunks import cuts_of

ALWAYS = keepbest.strategy("m-{epoch}.bin")
MIB = 1 << 20
CHUNK = 8 * MIB
# What a save costs on the wire beside the model's bytes: digests, cuts and the calls.
CALLS_BYTES = 64 << 10


class Counted:
    """A run whose bytes are counted on their way."""

    def __init__(self, server: Server, project: str) -> None:
        self.proxy = Proxy(server, [])
        self.client = keepbest.Client(self.proxy.address, timeout=60)
        self.direct = keepbest.Client(server.address)
        self.run = self.client.start_run(project, "r", ALWAYS)
        self.epoch = 0

    def save(self, what=None, **options):
        """Save it as the next epoch. Answers the version, and how many bytes were sent."""
        before = self.proxy.forwarded_bytes
        version = self.run.save(self.run.report_epoch(self.epoch, {}), what, **options)
        self.epoch += 1
        return version, self.proxy.forwarded_bytes - before


@pytest.fixture
def counted(server: Server, project):
    it = Counted(server, project)
    yield it
    it.client.close()
    it.proxy.close()


def model(adapters: int, names: str = "layer") -> dict[str, np.ndarray]:
    """Two frozen tensors, one larger than a chunk, with eight small ones between and behind them."""
    frozen = {f"{names}{number}": np.random.default_rng(number).random(MIB + 7 * number) for number in range(2)}
    tuned = {f"lora{number}": np.random.default_rng(adapters + number).random((8, 384)) for number in range(8)}
    return {**frozen, **tuned, "bias": np.zeros(300)}


def test_of_tensors_in_memory_those_that_changed_are_sent(counted: Counted):
    size = sum(it.nbytes for it in model(10).values())
    _, sent = counted.save(tensors=model(10))
    assert size < sent < size + CALLS_BYTES
    changed = 8 * 8 * 384 * 8
    for tensors, most in [(model(20), changed), (model(20), 0), (model(20, names="block"), 0)]:
        version, sent = counted.save(tensors=tensors)
        assert sent < most + CALLS_BYTES
        loaded = counted.direct.load(version.name)
        assert loaded.keys() == tensors.keys()
        assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)


def test_a_safetensors_file_is_cut_at_its_tensors_too(counted: Counted, tmp_path):
    path = tmp_path / "m.safetensors"
    for adapters, most in [(10, 2 * 17 * MIB), (20, 8 * 8 * 384 * 8)]:
        save_file(model(adapters), path)
        version, sent = counted.save(path)
        assert sent < most + CALLS_BYTES
        counted.direct.pull(version.name, tmp_path / str(adapters))
        assert (tmp_path / str(adapters) / path.name).read_bytes() == path.read_bytes()


def test_of_any_other_file_the_chunks_that_changed_are_sent(counted: Counted, tmp_path):
    path = tmp_path / "m.bin"
    data = bytearray(random_file(path, 4 * CHUNK + 5))
    counted.save(path)
    data[2 * CHUNK] ^= 1
    path.write_bytes(data)
    version, sent = counted.save(path)
    assert CHUNK < sent < CHUNK + CALLS_BYTES
    counted.direct.pull(version.name, tmp_path / "pulled")
    assert (tmp_path / "pulled" / "m.bin").read_bytes() == data


def test_what_a_file_only_claims_to_be_is_sent_all_the_same(counted: Counted, tmp_path):
    path = tmp_path / "m.safetensors"
    data = random_file(path, CHUNK + 5)
    version, _ = counted.save(path)
    counted.direct.pull(version.name, tmp_path / "pulled")
    assert (tmp_path / "pulled" / path.name).read_bytes() == data


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE])
def test_where_nobody_says_what_is_missing_all_is_sent(interposer: Interposer, project, code, tmp_path):
    def refuse(request, forward):
        raise Refused(code, "")

    with keepbest.Client(interposer.address) as client:
        run = client.start_run(project, "r", ALWAYS)
        for epoch, hooks in enumerate([{}, {"FindMissingChunks": refuse}]):
            interposer.hooks = hooks
            version = run.save(run.report_epoch(epoch, {}), tensors=model(10))
            assert client.load(version.name).keys() == model(10).keys()


def test_a_chunk_that_is_gone_between_question_and_answer_is_sent(interposer: Interposer, project):
    answers = []

    def says_that_nothing_is_missing(request, forward):
        answer = forward(request, timeout=10)
        answers.append(answer)
        return b"" if len(answers) == 1 else answer

    interposer.hooks = {"FindMissingChunks": says_that_nothing_is_missing}
    with keepbest.Client(interposer.address) as client:
        run = client.start_run(project, "r", ALWAYS)
        tensors = {"fresh": np.random.default_rng(99).random(MIB)}
        version = run.save(run.report_epoch(0, {}), tensors=tensors)
        assert np.array_equal(client.load(version.name)["fresh"], tensors["fresh"])
    assert len(answers) == 2


def test_cuts_are_at_tensors_but_between_small_neighbours():
    table = [
        ([], 20, []),
        ([100], 9_000, [100, 9_000]),
        ([100, 200, 300, 9_000], 9_100, [300, 9_000, 9_100]),
        ([5_000, 5_100, 5_200], 10_200, [5_000, 5_200, 10_200]),
        ([5_000], 5_000 + 2 * CHUNK + 1, [5_000, 5_000 + CHUNK, 5_000 + 2 * CHUNK, 5_000 + 2 * CHUNK + 1]),
        ([5_000], 5_000 + CHUNK, [5_000, 5_000 + CHUNK]),
        (list(range(5_000, 5_000 << 12, 5_000)), 5_000 << 12, list(range(5_000, (5_000 << 12) + 1, 5_000))),
        (list(range(4_096, 4_096 << 13, 4_096)), 4_096 << 13, list(range(16_384, (4_096 << 13) + 1, 16_384))),
    ]
    for points, size, cuts in table:
        assert cuts_of(points, size) == cuts
