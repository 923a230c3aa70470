"""What a browser sends by a form: read only after the secret was checked, and no more of it than may be.

FastAPI's own forms are read whole before any dependency is asked, so that a stranger could fill the disk.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import HTTPException, Request
from starlette.datastructures import FormData

MOST_FIELDS = 1000


class _Limited(Request):
    """A request whose body may not be larger than `limit` bytes."""

    limit = 0

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body."""
        size = 0
        async for part in super().stream():
            size += len(part)
            if size > self.limit:
                raise HTTPException(413, f"This is larger than {self.limit:,} bytes: send less.")
            yield part


async def read_form(request: Request, limit: int) -> FormData:
    """Return the fields of a form, one file among them at most.

    Raises
    ------
    fastapi.HTTPException
        413 when all of it is larger than `limit` bytes, 400 when it is no form.
    """
    limited = _Limited(request.scope, request.receive)
    limited.limit = limit
    return await limited.form(max_files=1, max_fields=MOST_FIELDS)
