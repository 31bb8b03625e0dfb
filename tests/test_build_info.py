"""`build_info()` says what the installed package is."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform

import pytest
import torch

from fkat.data import BuildInfo, build_info


def test_it_says_what_the_running_interpreter_and_torch_are():
    info = build_info()
    assert info.version == importlib.metadata.version("fkat-data")
    assert info.python == platform.python_version()
    assert info.torch == torch.__version__
    assert platform.machine() in info.platform


def test_it_prints_one_line_for_each_field_in_order():
    info = BuildInfo(
        version="0.1.0+cu130",
        has_cuda=True,
        cuda_toolkit="13.0",
        compiler="GNU 12.2.0",
        build_type="Release",
        python="3.11.7",
        torch="2.13.0+cu130",
        platform="Linux-6.1-x86_64-with-glibc2.36",
    )
    assert str(info).splitlines() == [
        "version:      0.1.0+cu130",
        "has_cuda:     True",
        "cuda_toolkit: 13.0",
        "compiler:     GNU 12.2.0",
        "build_type:   Release",
        "python:       3.11.7",
        "torch:        2.13.0+cu130",
        "platform:     Linux-6.1-x86_64-with-glibc2.36",
    ]


def test_it_cannot_be_changed_and_is_the_same_each_time():
    info = build_info()
    assert info == build_info()
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.version = "1"
