"""Tensors saved straight from memory, and loaded straight into it."""

from __future__ import annotations

import array
import json
import random
import sys
import tracemalloc
import types

import grpc
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from conftest import Interposer, Proxy, Server, durable_at_each_try

import keepbest
from keepbest import _pull
from keepbest._safetensors import DTYPES
from keepbest._tensors import TensorFile

ALWAYS = keepbest.strategy("m-{epoch}.bin")
MIB = 1 << 20


def decided(client, project, name="r"):
    run = client.start_run(project, name, ALWAYS)
    return run, run.report_epoch(0, {"val_loss": 1.0})


def of_each_dtype() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {}
    for number, name in enumerate(DTYPES):
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        raw = rng.integers(0, 2 if name == "bool" else 256, (3, 5, dtype.itemsize), dtype=np.uint8)
        found[f"t-{len(DTYPES) - number}"] = raw.view(dtype)[..., 0]
    return found | {"scalar": np.array(7.5), "z, none": np.zeros((0, 4), "?"), "ä/ö": np.arange(3, dtype="i2")}


def bytes_of(source: TensorFile) -> bytes:
    with source.open() as opened:
        return opened.read(0, source.size_bytes)


def same_tensors(left, right):
    assert set(left) == set(right)
    for name, value in left.items():
        value, other = np.asarray(value), np.asarray(right[name])
        assert (value.dtype, value.shape) == (other.dtype, other.shape), name
        assert value.tobytes() == other.tobytes(), name


def test_the_file_is_that_of_the_package_in_whatever_order_the_tensors_come():
    tensors, metadata = of_each_dtype(), {"ä": 'a "quoted"\n\x07/ text'}  # several have any order
    wanted = safetensors.numpy.save({name: np.asarray(it, order="C") for name, it in tensors.items()}, metadata)
    names = list(tensors)
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert bytes_of(TensorFile.of({name: tensors[name] for name in names}, metadata)) == wanted
    assert bytes_of(TensorFile.of({"a": np.ones(3)})) == safetensors.numpy.save({"a": np.ones(3)})


def test_tensors_are_saved_and_loaded_and_read_by_the_package(client, project, tmp_path):
    tensors = of_each_dtype()
    run, decision = decided(client, project)
    version = run.save(decision, tensors=tensors, metadata={"step": "3"})
    assert (version.path, dict(version.metadata), version.file_count) == ("model.safetensors", {"step": "3"}, 1)
    loaded = client.load(version.name)
    same_tensors(loaded, tensors)
    assert all(it.flags.writeable for it in loaded.values())
    client.pull(version.name, tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as opened:
        assert opened.metadata() == {"step": "3"}
        assert set(opened.keys()) == set(tensors)
    plain = {name: it for name, it in tensors.items() if it.dtype.kind != "V" and not hasattr(ml_dtypes, it.dtype.name)}
    run.save(run.report_epoch(1, {}), tensors=plain, path="a/b.safetensors")
    client.pull(f"{run.resource.artifact}:latest", tmp_path)
    same_tensors(safetensors.numpy.load_file(tmp_path / "a" / "b.safetensors"), plain)
    # What was saved again is the same version, and other values are not.
    assert run.save(decision, tensors=tensors, metadata={"step": "3"}).name == version.name
    with pytest.raises(keepbest.FileChanged):
        run.save(decision, tensors=tensors | {"scalar": np.array(8.5)}, metadata={"step": "3"})


def test_a_version_without_a_run_of_its_own_may_be_of_tensors(client, project):
    tensors = {"kernel": np.arange(6.0).reshape(2, 3)}
    version = client.push(artifact=f"{project}/final", tensors=tensors, metrics={"auc": 0.9}, mode="max")
    assert version.path == "model.safetensors"
    same_tensors(client.load(f"{project}/final:best"), tensors)


class HasDlpack:
    def __init__(self, value):
        self._value = value

    def __dlpack__(self, **arguments):
        return self._value.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self._value.__dlpack_device__()


class HasArray:
    def __array__(self, dtype=None, copy=None):
        return np.arange(4, dtype="f2")


class TorchTensor:
    """As torch's, as far as it is used: one of bfloat16 gives no array, but a view of its bits does."""

    layout, device, shape = "torch.strided", "cpu", (2, 3)

    def __init__(self, bits, dtype="torch.bfloat16"):
        self._bits, self.dtype = bits, dtype

    def detach(self):
        return self

    cpu = detach

    def element_size(self):
        return 2

    def view(self, dtype):
        return TorchTensor(self._bits, dtype)

    def numpy(self):
        if self.dtype != "torch.int16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._bits


TorchTensor.__module__ = "torch"


def test_arrays_of_every_kind_are_taken(client, project, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(int16="torch.int16"))
    bfloat16 = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    plain = np.arange(12.0).reshape(3, 4)
    tensors = {
        "jax": jnp.arange(5, dtype="float32"),
        "jax bfloat16": jnp.ones((2, 2), "bfloat16"),
        "array": array.array("d", [1, 2, 3]),
        "memory": memoryview(b"abc"),
        "bytes": bytearray(b"abcd"),
        "dlpack of jax": HasDlpack(jnp.arange(3, dtype="int32")),
        "dlpack": HasDlpack(np.arange(3)),
        "__array__": HasArray(),
        "scalar": np.float32(2.5),
        "torch": TorchTensor(bfloat16.view(np.int16)),
        "columns": np.asfortranarray(plain),
        "every second": plain[:, ::2],
        "backwards": plain[::-1],
        "repeated": np.broadcast_to(np.float32(3), (4, 5)),
        "big-endian": plain.astype(">f4"),
    }
    wanted = {name: np.asarray(tensors[name]) for name in tensors if "dlpack" not in name and name != "torch"} | {
        "dlpack of jax": np.arange(3, dtype="int32"),
        "dlpack": np.arange(3),
        "torch": bfloat16,
        "big-endian": plain.astype("f4"),
    }
    run, decision = decided(client, project)
    same_tensors(client.load(run.save(decision, tensors=tensors).name), wanted)
    later = run.save(run.report_epoch(1, {}), tensors=tensors, asynchronous=True).result(60)
    same_tensors(client.load(later.name), wanted)


class Twice(dict):
    def items(self):
        return [*super().items(), *super().items()]


class Sparse(TorchTensor):
    layout = "torch.sparse_coo"


ONE = {"a": np.ones(2)}
BAD = [
    ({"tensors": {}}, ValueError, "`tensors` is empty"),
    ({"tensors": [np.ones(2)]}, TypeError, "`tensors` is .* it must be a map from name to tensor"),
    ({"tensors": {3: np.ones(2)}}, TypeError, "a name of `tensors`` is 3, .* it must be a text"),
    ({"tensors": {"\ud800": np.ones(2)}}, ValueError, "a text that UTF-8 can say"),
    ({"tensors": {"__metadata__": np.ones(2)}}, ValueError, "may be called `__metadata__`"),
    ({"tensors": Twice(ONE)}, ValueError, "`tensors` has `a` twice"),
    ({"tensors": {"a": np.array([{}])}}, TypeError, r"`tensors\['a'\]` has dtype `object`, which safetensors cannot"),
    ({"tensors": {"a": np.ones(2, "c16")}}, TypeError, "dtype `complex128`"),
    ({"tensors": {"a": np.array(["x"])}}, TypeError, "dtype `str"),
    ({"tensors": {"a": [1.0]}}, TypeError, r"`tensors\['a'\]` is \[1.0\], .* it must be a tensor"),
    ({"tensors": {"a": b"1"}}, TypeError, "it must be a tensor"),
    ({"tensors": {"a": 1.0}}, TypeError, "it must be a tensor"),
    ({"tensors": {"a": types.SimpleNamespace(dtype="float32", shape=(2,))}}, TypeError, "it must be a tensor"),
    ({"tensors": {"a": Sparse(None)}}, TypeError, "it must be a dense one"),
    ({"tensors": ONE, "metadata": {"step": 3}}, TypeError, r"`metadata\['step'\]` is 3, .* it must be a text"),
    ({"tensors": ONE, "metadata": {3: "x"}}, TypeError, "a key of `metadata`"),
    ({"tensors": ONE, "metadata": "x"}, TypeError, "`metadata` is 'x'"),
    ({"tensors": ONE, "what": "m.bin"}, ValueError, "files or `tensors`, not both"),
    ({"path": "x.safetensors"}, ValueError, "that of `tensors` in the version, and there are none"),
    ({"tensors": ONE, "path": 3}, TypeError, "`path` is 3"),
    ({"tensors": ONE, "path": "../x"}, ValueError, "path `../x` is none in a version"),
    ({"tensors": ONE, "path": ""}, ValueError, "path `` is none in a version"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD, ids=[text for _, _, text in BAD])
def test_what_is_wrong_with_tensors_is_told_before_anything_is_sent(
    interposer: Interposer, project, arguments, kind, text
):
    client = keepbest.Client(interposer.address, timeout=30)
    run, decision = decided(client, project)
    before = list(interposer.calls)
    for asynchronous in (False, True):
        with pytest.raises(kind, match=text.replace("a name of `tensors``", "`a name of `tensors``")):
            run.save(decision, asynchronous=asynchronous, **arguments)
    with pytest.raises(kind):
        client.push(artifact=f"{project}/final", **arguments)
    assert interposer.calls == before
    assert run.save(decision, tensors=ONE).number == 0  # it stays open
    client.close()


def test_a_header_beyond_the_formats_limit_is_refused(monkeypatch):
    monkeypatch.setattr("keepbest._safetensors.HEADER_BYTES", 80)
    with pytest.raises(ValueError, match=r"the header of 2 tensors would have .* bytes, and safetensors allows 80"):
        TensorFile.of({"a": np.ones(1), "b": np.ones(1)})


def test_what_is_not_installed_is_named(client, project, monkeypatch):
    run, decision = decided(client, project)
    version = run.save(decision, tensors={"a": np.ones(2, ml_dtypes.bfloat16)})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="NumPy has no `bfloat16` of its own: pip install ml-dtypes"):
        client.load(version.name)
    monkeypatch.setitem(sys.modules, "numpy", None)
    for needs_numpy in (lambda: client.load(version.name), lambda: run.save(run.report_epoch(1, {}), tensors=ONE)):
        with pytest.raises(ImportError, match="tensors need NumPy: pip install numpy"):
            needs_numpy()


def test_cut_points_are_where_tensors_begin_in_the_file():
    tensors = of_each_dtype()
    source = TensorFile.of(tensors)
    whole = bytes_of(source)
    begin = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:begin])
    offsets = {begin + it["data_offsets"][0] for it in header.values()} - {len(whole)}
    assert source.cut_points == tuple(sorted(offsets))
    assert source.size_bytes == len(whole)
    # Any range can be read, in any order, as an upload that goes on does it.
    with source.open() as opened:
        for seed in range(200):
            at = random.Random(seed).randrange(len(whole))
            size = random.Random(-seed).randrange(len(whole) - at + 1)
            assert opened.read(at, size) == whole[at : at + size]
    with pytest.raises(ValueError, match="not read any more"):
        opened.read(0, 1)


def test_an_upload_of_tensors_goes_on_after_each_cut(server: Server, project, monkeypatch):
    durable = durable_at_each_try(monkeypatch)
    tensors = {f"t{number}": np.random.default_rng(number).random(MIB) for number in range(5)}  # 8 MiB each
    cuts = [10 * MIB, 24 * MIB, 37 * MIB]
    proxy = Proxy(server, cuts)
    client = keepbest.Client(proxy.address, timeout=60)
    run, decision = decided(client, project)
    version = run.save(decision, tensors=tensors)
    # What came whole before a cut is not sent again, so the last one may find nothing to cut.
    assert proxy.cuts >= 2
    assert proxy.forwarded_bytes < cuts[proxy.cuts - 1] + version.size_bytes - durable[-1] + MIB
    assert durable == sorted(durable)
    same_tensors(keepbest.Client(server.address).load(version.name), tensors)
    proxy.close()


def peak_bytes(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_tensor_is_copied_but_one_at_a_time_that_is_not_contiguous(client, project):
    """NumPy's allocations are traced, and so are those of messages, which have 1 MiB each."""
    run, decision = decided(client, project)
    run.save(decision, tensors=ONE)
    decisions = [run.report_epoch(epoch, {}) for epoch in (1, 2)]
    whole = {str(number): np.ones((4, MIB)) for number in range(2)}  # 32 MiB each
    turned = {name: tensor.T for name, tensor in whole.items()}
    assert peak_bytes(lambda: run.save(decisions[0], tensors=whole)) < 24 * MIB
    assert 32 * MIB < peak_bytes(lambda: run.save(decisions[1], tensors=turned)) < (32 + 24) * MIB


def test_each_tensor_is_allocated_once_when_it_is_loaded(client, project):
    run, decision = decided(client, project)
    version = run.save(decision, tensors={str(number): np.ones((4, MIB)) for number in range(2)})
    assert 64 * MIB <= peak_bytes(lambda: client.load(version.name)) < (64 + 12) * MIB


def test_tensors_may_be_mapped_from_a_pulled_file(client, project, tmp_path):
    tensors = of_each_dtype()
    run, decision = decided(client, project)
    version = run.save(decision, tensors=tensors)
    mapped = client.load(version.name, memory_map=tmp_path / "here")
    same_tensors(mapped, tensors)
    assert (tmp_path / "here" / "model.safetensors").stat().st_size == version.size_bytes
    with pytest.raises(ValueError, match="read-only"):
        mapped["scalar"][...] = 0


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = [
    (b"", "it has 0 bytes, and a safetensors file has 8 at least"),
    (b"1234567", "it has 7 bytes, and a safetensors file has 8 at least"),
    ((100_000_001).to_bytes(8, "little") + b" " * 50, "its header would have 100000001 bytes, and safetensors allows"),
    ((51).to_bytes(8, "little") + b" " * 50, "its header would have 51 bytes, and all of the file has 58"),
    (file_of(b"{"), "its header is no JSON"),
    (file_of(b'{"\xff": 1}'), "its header is no UTF-8"),
    (file_of(b"[" * 100_000), "its header is nested too deeply"),
    (file_of([]), "its header is no JSON object"),
    (file_of(b'{"a":%s,"a":%s}' % ((json.dumps(F32).encode(),) * 2), bytes(8)), "its header has `a` twice"),
    (file_of({"__metadata__": {"a": 1}}), "`__metadata__` of its header is no map from text to text"),
    (file_of({"a": 1}), "the entry of its tensor `a` has not just"),
    (file_of({"a": F32 | {"dtype": "F128"}}, bytes(8)), "has dtype `F128`, which is none of"),
    (file_of({"a": F32 | {"dtype": []}}, bytes(8)), "has dtype"),
    (file_of({"a": F32 | {"shape": [-2]}}, bytes(8)), "has shape"),
    (file_of({"a": F32 | {"shape": [2.0]}}, bytes(8)), "has shape"),
    (file_of({"a": F32 | {"shape": [True, 2]}}, bytes(8)), "has shape"),
    (file_of({"a": F32 | {"data_offsets": [0]}}, bytes(8)), "has data_offsets"),
    (file_of({"a": F32 | {"data_offsets": [0, 4]}}, bytes(4)), r"a F32 of \[2\] has 8 bytes"),
    (file_of({"a": F32}, bytes(7)), "its tensors end at byte .* of"),
    (file_of({"a": F32}, bytes(9)), "its tensors end at byte .* of"),
    (file_of({"a": F32 | {"data_offsets": [4, 12]}}, bytes(12)), "its tensor `a` begins at byte .* instead of"),
    (file_of({"a": F32, "b": F32}, bytes(8)), "its tensor `b` begins at byte .* instead of"),
    (file_of({"a": F32 | {"shape": [1 << 62, 1 << 62]}}, bytes(8)), "has 8507059173023"),
]


@pytest.mark.parametrize(("data", "text"), DAMAGED, ids=[text for _, text in DAMAGED])
def test_a_damaged_file_is_an_error_that_names_it_and_its_version(client, project, tmp_path, data, text):
    (tmp_path / "w.safetensors").write_bytes(data)
    run, decision = decided(client, project)
    version = run.save(decision, tmp_path / "w.safetensors")
    for memory_map in (None, tmp_path / "pulled"):
        with pytest.raises(ValueError, match=f"`w.safetensors` of {version.name} is no safetensors file .*{text}"):
            client.load(version.name, memory_map=memory_map)


def test_a_file_without_tensors_and_one_that_is_not_aligned_are_read(client, project, tmp_path):
    run = client.start_run(project, "r", ALWAYS)
    odd = file_of(json.dumps({"a": F32, "none": F32 | {"shape": [0], "data_offsets": [8, 8]}}).encode() + b" " * 3)
    for epoch, (data, names) in enumerate([(file_of({}), set()), (odd + bytes(8), {"a", "none"})]):
        (tmp_path / "w.safetensors").write_bytes(data)
        version = run.save(run.report_epoch(epoch, {}), tmp_path / "w.safetensors")
        for memory_map in (None, tmp_path / "pulled"):
            assert set(client.load(version.name, memory_map=memory_map)) == names


def test_the_file_to_load_is_the_one_that_can_be_meant(client, project, tmp_path):
    run, decision = decided(client, project)
    for name in ("a.safetensors", "b.safetensors", "c.bin"):
        (tmp_path / name).write_bytes(bytes_of(TensorFile.of({name: np.ones(2)})))
    version = run.save(decision, tmp_path)
    with pytest.raises(ValueError, match=r"has 2 safetensors files: name one as `path`: `a.safetensors`, `b"):
        client.load(version.name)
    with pytest.raises(ValueError, match=r"has no file `x`; it has `a.safetensors`"):
        client.load(version.name, path="x")
    assert set(client.load(version.name, path="c.bin")) == {"c.bin"}
    only = run.save(run.report_epoch(1, {}), tmp_path / "c.bin")
    with pytest.raises(ValueError, match=r"has no file `\*.safetensors`: it has `c.bin`"):
        client.load(only.name)


def test_what_was_received_is_checked_and_a_broken_stream_goes_on(client, project, monkeypatch):
    tensors = {"a": np.random.default_rng(1).random(2 * MIB)}
    run, decision = decided(client, project)
    version = run.save(decision, tensors=tensors)
    read, ranges = _pull._read, []

    def broken(connection, name, path, bytes_range, patience):
        ranges.append(bytes_range)
        for number, data in enumerate(read(connection, name, path, bytes_range, patience)):
            if number == 3 and len(ranges) == 1:
                raise keepbest.Unavailable("cut", code=grpc.StatusCode.UNAVAILABLE)
            yield data

    monkeypatch.setattr(_pull, "_read", broken)
    same_tensors(client.load(version.name), tensors)
    # The first message has no bytes, and the second the header, which is a chunk.
    assert [begin for begin, _ in ranges] == [0, TensorFile.of(tensors).cut_points[0] + MIB]

    def flipped(connection, name, path, bytes_range, patience):
        for data in read(connection, name, path, bytes_range, patience):
            yield data[:-1] + bytes([data[-1] ^ 1]) if len(data) == MIB else data

    monkeypatch.setattr(_pull, "_read", flipped)
    with pytest.raises(keepbest.DataLoss, match=f"`model.safetensors` of {version.name} does not match its digest"):
        client.load(version.name)


def test_a_declared_sha256_is_that_of_the_file(client, project, monkeypatch):
    run, decision = decided(client, project)
    version = run.save(decision, tensors={"a": np.random.default_rng(1).random(MIB)}, sha256=True)
    assert len(client.version(version.name, include_files=True).files[0].sha256) == 32
    assert client.load(version.name)["a"].shape == (MIB,)


def test_each_rank_saves_its_own_tensors(client, project):
    runs = [client.start_run(project, "r", ALWAYS, rank=rank, ranks=2, launch="l") for rank in range(2)]
    decisions = [run.report_epoch(0, {}) for run in runs]
    saves = [
        run.save(decision, tensors={"a": np.full(2, run.rank)}, asynchronous=True)
        for run, decision in zip(runs, decisions, strict=True)
    ]
    version, _ = (save.result(60) for save in saves)
    for rank in range(2):
        loaded = client.load(version.name, path=f"model-0000{rank + 1}-of-00002.safetensors")
        assert list(loaded["a"]) == [rank, rank]


def test_progress_is_told_of_tensors_too(client, project):
    run, decision = decided(client, project)
    told: list[tuple[int, int]] = []
    version = run.save(decision, tensors={"a": np.ones(MIB)}, on_progress=lambda *now: told.append(now))
    assert told[-1] == (version.size_bytes, version.size_bytes)
    told.clear()
    client.load(version.name, on_progress=lambda *now: told.append(now))
    assert told[-1] == (version.size_bytes, version.size_bytes)
    assert version.path == "model.safetensors"
