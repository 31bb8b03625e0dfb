"""The version of a build, for scikit-build-core: the project's, and which wheel it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, str]:
    """Version ``settings["release"]``, with ``+`` and what the variable ``FKAT_WHEEL`` says.

    A provider in the sense of dynamic-metadata 0.3. Without the variable, as in an install from
    source, the version has no local part. CMakeLists.txt refuses a label that is not true.
    """
    label = os.environ.get("FKAT_WHEEL", "")
    return {"version": settings["release"] + (label and f"+{label}")}
