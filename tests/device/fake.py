"""A CUDA device for tests that have none: the fake driver, and torch's side of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path

import torch

SOURCES = Path(__file__).parents[1] / "fake_cuda"
GARBAGE = 0xA5  # what fresh device memory holds


def build(folder):
    """The path of the fake driver, compiled there."""
    library = Path(folder) / "libfake_cuda.so"
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-shared", "-fPIC", "-O1", "-g"]
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    subprocess.run([*command, *sources, "-o", str(library), "-lpthread", "-ldl"], check=True)
    return library


class FakeCuda:
    """Controls and observations: see fake_cuda.h."""

    def __init__(self, path):
        self.path = path
        self._library = library = ctypes.CDLL(str(path))
        library.fake_cuda_stream_create.restype = ctypes.c_void_p
        library.fake_cuda_step.argtypes = [ctypes.c_void_p]
        library.fake_cuda_launch_read.argtypes = [
            *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t)
        ]
        library.fake_cuda_count.restype = ctypes.c_int64
        library.fake_cuda_limit_registered.argtypes = [ctypes.c_uint64]
        library.fake_cuda_violation.restype = ctypes.c_char_p
        self.reset = library.fake_cuda_reset
        self.hold = library.fake_cuda_hold
        self.release = library.fake_cuda_release
        self.delay = library.fake_cuda_delay
        self.seed = library.fake_cuda_seed
        self.pageable_async = library.fake_cuda_pageable_async
        self.limit_registered = library.fake_cuda_limit_registered
        self.deinitialize = library.fake_cuda_deinitialize
        self.tells_pages_apart = library.fake_cuda_tells_pages_apart
        self.new_stream = library.fake_cuda_stream_create
        self.context_depth = library.fake_cuda_context_depth

    def count(self, what):
        number = self._library.fake_cuda_count(what.encode())
        assert number != -1, f"nothing is counted as {what}"
        return number

    def fail(self, entry_point, code, after=0, times=1):
        assert self._library.fake_cuda_fail(entry_point.encode(), after, times, code)

    def violations(self):
        texts = (self._library.fake_cuda_violation(i).decode() for i in range(16))
        return [text for text in texts if text]

    def unbalanced(self):
        """What is still held, by kind."""
        kinds = ("contexts", "events", "registrations", "registered_bytes", "in_flight")
        return {kind: self.count(kind) for kind in kinds if self.count(kind) != 0}

    def read_on(self, stream, tensor):
        """Bytes of a device tensor as a kernel on ``stream`` will have seen them."""
        seen = torch.full((tensor.numel() * tensor.itemsize,), 0x5A, dtype=torch.uint8)
        source, nbytes = tensor.data_ptr(), seen.numel()
        self._library.fake_cuda_launch_read(stream, source, seen.data_ptr(), nbytes)
        return seen

    def settle(self):
        """Wait until nothing is in flight: what the copies have written may be looked at."""
        while self.count("in_flight") != 0:
            time.sleep(0.0005)


class FakeMemory:
    """As `fkat.data._device.cuda.CudaMemory`, on the fake device: its memory is the host's.

    Memory is used again only when nothing is in flight, as torch's allocator sees to it for the
    stream that it was allocated on, and for those that it was handed over to.
    """

    def __init__(self, fake, index=0):
        self._fake = fake
        self._slabs = []
        self.device = torch.device("cuda", index)
        self.copy_stream = fake.new_stream()
        self.compute_stream = fake.new_stream()
        self.num_left = None  # allocations until there is no memory; None: there always is
        self.handed_over = []  # (address, stream)

    def allocate(self, nbytes):
        if self.num_left is not None:
            if self.num_left == 0:
                raise torch.cuda.OutOfMemoryError("the fake device is full")
            self.num_left -= 1
        if self._fake.count("in_flight") == 0:
            self._slabs.clear()
        self._slabs.append(torch.full((nbytes,), GARBAGE, dtype=torch.uint8))
        return self._slabs[-1]

    def current_stream(self):
        return self.compute_stream

    def hand_over(self, slab):
        self.handed_over.append((slab.data_ptr(), self.compute_stream))
