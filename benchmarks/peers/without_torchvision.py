"""Imported before Streaming: its picture datasets import torchvision, which none here needs.

torchvision fails to import where it was not built for this very torch.
"""

from __future__ import annotations

import sys
from types import ModuleType

sys.modules.setdefault("streaming.vision", ModuleType("streaming.vision"))
