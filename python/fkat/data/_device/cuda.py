"""torch's side of a CUDA device: whether it is there, its memory, its streams."""

from __future__ import annotations

import logging

import torch

from fkat.data.errors import DeviceError

_logger = logging.getLogger("fkat.data")


class CudaMemory:
    """Memory for microbatches on one device, from torch's caching allocator.

    It is allocated on a copy stream, so that a copy into it waits for nothing that the training
    step has queued. Whoever uses it on another stream says so to the allocator (`hand_over`), which
    then gives it to nobody else before that stream has got past the use.

    Attributes:
        device: The device, by number.
        copy_stream: Handle of the stream that copies are to be issued on.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.copy_stream: int = self._stream.cuda_stream

    def allocate(self, nbytes: int) -> torch.Tensor:
        """``nbytes`` of memory, as a tensor of uint8, shape ``(nbytes,)``.

        Raises:
            torch.cuda.OutOfMemoryError: There is none.
        """
        with torch.cuda.stream(self._stream):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def current_stream(self) -> int:
        """Handle of the stream that the caller computes on."""
        return torch.cuda.current_stream(self.device).cuda_stream

    def hand_over(self, slab: torch.Tensor) -> None:
        """Let the caller's stream use memory of `allocate`, until the last view of it dies."""
        slab.record_stream(torch.cuda.current_stream(self.device))


def check(device: torch.device) -> None:
    """Raise `DeviceError` if it is a CUDA device that this process cannot use; starts nothing."""
    if device.type != "cuda":
        return
    if torch.cuda._is_in_bad_fork():
        raise DeviceError(
            f"device {device} cannot be used in this process: it was forked from one that had "
            "used CUDA, which does not survive fork; start it by spawn or forkserver"
        )
    num_devices = torch.cuda.device_count()
    if num_devices == 0:
        built_for = torch.version.cuda or torch.version.hip
        why = f"built for {built_for}" if built_for else "built without CUDA"
        raise DeviceError(
            f"device {device} does not exist: torch {torch.__version__} ({why}) finds no GPU"
        )
    if device.index is not None and device.index >= num_devices:
        raise DeviceError(
            f"device {device} does not exist: torch finds {num_devices}, cuda:0 to "
            f"cuda:{num_devices - 1} (CUDA_VISIBLE_DEVICES hides others)"
        )


def tell_unstaged(device: torch.device) -> None:
    """Log that torch copies to ``device``, and why."""
    why = "is built without CUDA" if torch.version.hip is None else "does not know ROCm"
    _logger.warning(
        "this build of fkat.data %s: tensors are copied to %s by torch, one by one and while the "
        "training loop waits",
        why,
        device,
    )


def open_memory(device: torch.device) -> CudaMemory:
    """The memory of a CUDA device.

    Raises:
        DeviceError: It does not exist, is busy, or this process was forked after CUDA was used.
    """
    check(device)
    try:
        return CudaMemory(device)
    except RuntimeError as error:
        raise DeviceError(f"device {device} cannot be used: {error}") from error
