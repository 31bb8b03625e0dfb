"""What an optional dependency is for."""

from __future__ import annotations


def require_pyarrow(user: object) -> None:
    """Fail with advice when there is no pyarrow.

    Raises:
        ImportError: Says what to install.
    """
    try:
        import pyarrow  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{type(user).__name__} needs pyarrow: pip install fkat-data[parquet] ({error})"
        ) from error
