"""Lets timm import where torchvision's compiled part does not fit the torch that is installed.

torchvision from PyPI is linked to CUDA. Beside a CPU build of torch its compiled part does not load, its operators are
missing, and its import fails (``operator torchvision::nms does not exist``), and with it timm's. Nothing here needs
those operators: declaring them is enough for the import, and calling one still fails.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def declare_missing_operators() -> Library | None:
    """Declare the operators that torchvision's import asks for, where the real ones don't load.

    Call it before the first import of timm or torchvision.

    Returns
    -------
    torch.library.Library or None
        What holds the declarations, which live as long as it does; None where the real operators loaded.
    """
    import torch

    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
    return library


def _loads(folder: Path) -> bool:
    import torch

    for compiled in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd"), *folder.glob("_C*.dylib")):
        try:
            torch.ops.load_library(str(compiled))  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return True
    return False
