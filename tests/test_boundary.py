"""The boundary between Python and C++: the compiled module, its stub, its errors, its waits."""

from __future__ import annotations

import ast
import fcntl
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from fkat.data import ShmDataLoader, _core
from fkat.data._transport.codec import encode
from fkat.data.errors import CorruptSegmentError

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "fkat" / "data"
FORK = multiprocessing.get_context("fork")


def stub():
    """Classes, functions and constants of the stub, by name."""
    tree = ast.parse((PACKAGE / "_core.pyi").read_text())
    kinds = ast.ClassDef | ast.FunctionDef | ast.AnnAssign
    nodes = [node for node in tree.body if isinstance(node, kinds)]
    return {getattr(node, "name", None) or node.target.id: node for node in nodes}


def stub_members(node):
    return {member.name: member for member in node.body if isinstance(member, ast.FunctionDef)}


def compiled_members(kind):
    """What a compiled class has of its own."""
    has_init = "(self: " in (kind.__init__.__doc__ or "")
    names = {name for name in vars(kind) if not name.startswith("_")}
    return {name: vars(kind)[name] for name in names | ({"__init__"} if has_init else set())}


def parameters(arguments):
    """Names of parameters, with a star for each that has a default."""
    names = [argument.arg for argument in arguments.args]
    first_default = len(names) - len(arguments.defaults)
    return [name + "*" * (i >= first_default) for i, name in enumerate(names)]


def compiled_parameters(function):
    """The same from the signature that pybind11 writes as the first line of a docstring."""
    signature = function.__doc__.splitlines()[0]
    return parameters(ast.parse(f"def {signature}: ...").body[0].args)


CLASSES = sorted(name for name, node in stub().items() if isinstance(node, ast.ClassDef))
FUNCTIONS = sorted(name for name, node in stub().items() if isinstance(node, ast.FunctionDef))


def test_the_stub_names_what_the_compiled_module_has():
    assert set(stub()) == {name for name in vars(_core) if not name.startswith("__")}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_stub_has_the_members_of_the_compiled_one(name):
    compiled = getattr(_core, name)
    if issubclass(compiled, Exception):
        base = stub()[name].bases[0].id
        assert [kind.__name__ for kind in compiled.__bases__] == [base]
    else:
        assert set(stub_members(stub()[name])) == set(compiled_members(compiled))


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_stub_has_the_properties_of_the_compiled_one(name):
    compiled = compiled_members(getattr(_core, name))
    for member, node in stub_members(stub()[name]).items():
        decorators = {decorator.id for decorator in node.decorator_list}
        assert ("property" in decorators) == isinstance(compiled[member], property), member
        assert ("staticmethod" in decorators) == isinstance(compiled[member], staticmethod), member


@pytest.mark.parametrize("name", CLASSES)
def test_methods_of_the_stub_have_the_parameters_of_the_compiled_ones(name):
    compiled = getattr(_core, name)
    for member, node in stub_members(stub()[name]).items():
        if not isinstance(compiled_members(compiled)[member], property):
            actual = compiled_parameters(getattr(compiled, member))
            assert parameters(node.args) == actual, member


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_the_stub_have_the_parameters_of_the_compiled_ones(name):
    assert parameters(stub()[name].args) == compiled_parameters(getattr(_core, name))


def readelf(*options):
    tool = shutil.which("readelf")
    if tool is None:
        pytest.skip("needs readelf (binutils)")
    command = [tool, *options, "--wide", _core.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_extension_links_neither_torch_nor_cuda():
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("--dynamic"))
    system = ("libstdc++.", "libgcc_s.", "libc.", "libm.", "libpthread.", "librt.", "ld-linux")
    assert "libc.so.6" in needed
    assert [name for name in needed if not name.startswith(system)] == []


def test_the_extension_exports_only_its_init_function():
    rows = [line.split() for line in readelf("--dyn-syms").splitlines()]
    defined = [row[7] for row in rows if len(row) == 8 and row[6].isdigit()]
    assert defined == ["PyInit__core"]


def memfd(content, nbytes=None, seals=fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    os.ftruncate(fd, len(content) if nbytes is None else nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def copied(ring, change=lambda header: header, **options):
    """A memfd with the header of a ring, changed."""
    header = change(os.pread(ring.fd, 1 << 12, 0))
    return memfd(header, os.fstat(ring.fd).st_size, **options)


@pytest.mark.parametrize(
    "content",
    [b"x", b"\0" * (1 << 16), b"\xff" * (1 << 16), os.urandom(1 << 16)],
    ids=["one byte", "zeros", "ones", "random"],
)
def test_attach_refuses_a_segment_of_garbage(content):
    fd = memfd(content)
    with pytest.raises(CorruptSegmentError):
        _core.Ring.attach(fd)
    os.close(fd)


def test_attach_refuses_an_empty_segment():
    fd = memfd(b"")
    with pytest.raises((OSError, CorruptSegmentError)):
        _core.Ring.attach(fd)
    os.close(fd)


def test_attach_takes_a_ring_made_elsewhere():
    ring = _core.Ring.create(3, 4096)
    fd = copied(ring)
    attached = _core.Ring.attach(fd)
    os.close(fd)
    assert (attached.num_slots, attached.slot_nbytes) == (3, ring.slot_nbytes)


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE])
def test_attach_refuses_a_ring_whose_memory_could_be_taken_away(seals):
    fd = copied(_core.Ring.create(3, 4096), seals=seals)
    with pytest.raises(CorruptSegmentError, match="sealed"):
        _core.Ring.attach(fd)
    os.close(fd)


def test_attach_refuses_a_ring_whose_header_was_changed():
    ring = _core.Ring.create(2, 4096)
    refused = 0
    for i in range(40):
        fd = copied(ring, lambda h, i=i: h[:i] + bytes([h[i] ^ 0x55]) + h[i + 1 :])
        try:
            attached = _core.Ring.attach(fd)
        except CorruptSegmentError:
            refused += 1
        else:  # a byte that stands for nothing
            geometry = (attached.num_slots, attached.slot_nbytes)
            assert geometry == (ring.num_slots, ring.slot_nbytes)
        finally:
            os.close(fd)
    assert refused >= 24  # magic, version and sizes, at least


def test_attach_refuses_what_is_no_file_descriptor():
    with pytest.raises((OSError, CorruptSegmentError), match="descriptor"):
        _core.Ring.attach(-1)


def test_attach_refuses_a_pipe():
    ends = os.pipe()
    with pytest.raises((OSError, CorruptSegmentError)):
        _core.Ring.attach(ends[0])
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    "arguments", [(0, 4096), (2, 0), (2, 4096, 0), (10**6, 4096), (2, 1 << 60)]
)
def test_a_ring_of_impossible_geometry_is_a_value_error(arguments):
    with pytest.raises(ValueError, match="must be"):
        _core.Ring.create(*arguments)


def test_a_reader_that_the_ring_has_not_is_a_value_error():
    with pytest.raises(ValueError, match="reader 1"):
        _core.Consumer(_core.Ring.create(2, 4096), 1, 1, 1)


def test_a_leaf_that_is_no_buffer_is_a_type_error():
    ring = _core.Ring.create(2, 4096)
    producer, consumer = _core.Producer(ring, 1 << 20), _core.Consumer(ring, 1, 1)
    consumer.begin_pass(0)
    pass_ = producer.await_pass(0)
    with pytest.raises(TypeError):
        producer.publish(pass_, 0, b"", [3])


def test_a_frame_larger_than_a_slot_is_a_value_error_that_names_the_parameter():
    ring = _core.Ring.create(2, 4096)
    producer, consumer = _core.Producer(ring, 1 << 30), _core.Consumer(ring, 1, 1)
    consumer.begin_pass(0)
    with pytest.raises(ValueError, match="max_microbatch_nbytes"):
        producer.publish(producer.await_pass(0), 0, bytes(ring.slot_nbytes), [])


def test_a_frame_larger_than_the_budget_is_a_value_error_that_names_the_parameter():
    ring = _core.Ring.create(2, 1 << 24)
    producer, consumer = _core.Producer(ring, 1 << 20), _core.Consumer(ring, 1, 1)
    consumer.begin_pass(0)
    with pytest.raises(ValueError, match="memory_budget_nbytes"):
        producer.publish(producer.await_pass(0), 0, bytes(2 << 20), [])


def test_a_wait_past_its_deadline_is_a_timeout_error():
    consumer = _core.Consumer(_core.Ring.create(2, 4096), 1, 1)
    consumer.begin_pass(0)
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        consumer.acquire(0.01)


def test_what_a_wait_asks_ends_it_and_the_next_one_has_the_microbatch():
    ring = _core.Ring.create(2, 1 << 20)
    producer, consumer = _core.Producer(ring, 1 << 20), _core.Consumer(ring, 1, 1)
    consumer.begin_pass(0)
    kept, asked = [], []

    def ask():
        asked.append(len(kept))
        if len(asked) == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        consumer.acquire(None, kept.append, ask)
    assert asked == [0, 0]
    producer.publish(producer.await_pass(0), 0, *encode("late"))
    assert consumer.acquire(None, kept.append, ask).position == 0
    assert asked == [0, 0]  # not where nothing has to be waited for
    assert len(kept) == 1


def test_a_dead_producer_is_told_apart_from_a_slow_one():
    consumer = _core.Consumer(_core.Ring.create(2, 4096), 1, 1)
    process = FORK.Process(target=int)
    process.start()
    pidfd = os.pidfd_open(process.pid)
    consumer.watch(pidfd)
    os.close(pidfd)
    process.join()
    consumer.begin_pass(0)
    with pytest.raises(_core.ProducerExitedError):
        consumer.acquire(60.0)


def test_other_threads_run_while_one_waits_for_a_microbatch():
    ring = _core.Ring.create(2, 4096)
    producer, consumer = _core.Producer(ring, 1 << 20), _core.Consumer(ring, 0, 1)

    def produce():
        pass_ = producer.await_pass(0)
        # With no prefetch this is granted only to a consumer that is waiting already.
        assert producer.await_grant(pass_)
        producer.publish(pass_, 0, *encode("made by a thread"))

    thread = threading.Thread(target=produce)
    thread.start()  # waits for a pass, which this thread must be able to ask for
    consumer.begin_pass(0)
    assert consumer.acquire(60.0).position == 0
    thread.join()


def interrupt_when(event):
    """Send SIGINT, as Ctrl-C does, to this process once the event has come."""

    def interrupt():
        event.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def test_ctrl_c_ends_a_wait_and_the_loader_goes_on():
    begun, go = FORK.Event(), FORK.Event()

    def factory():
        begun.set()
        go.wait()
        yield torch.ones(1)
        yield torch.zeros(1)

    loader = ShmDataLoader(0, factory, 0, multiprocessing_context=FORK)
    thread = interrupt_when(begun)
    with pytest.raises(KeyboardInterrupt):
        next(loader)
    thread.join()
    go.set()
    assert [int(microbatch) for microbatch in loader] == [1, 0]
