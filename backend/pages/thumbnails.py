"""Thumbnails of tasks: read as safely as every image is, made small, and never the file itself.

A file from somewhere else could be anything to a browser; what leaves here is pixels that were encoded anew. They are
kept in the state's cache folder, by the content they were made from.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import suppress
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import sqlalchemy as sa
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response
from PIL import Image

from backend.database import images, reading, tasks
from backend.images import ImageUnreadable, decode
from backend.pages import site
from backend.services import Services
from model.transform import to_rgb

SIDE = 480
"""Longest side in pixels: sharp at half that width on a phone."""
QUALITY = 80
KEPT_BYTES = 256 << 20
"""Bytes that the cache may take: some 20,000 thumbnails. Those not looked at for longest go first."""
LOOKED_AFTER = 200
"""New thumbnails after which the size of the cache is looked at."""
AT_A_TIME = 4
"""Thumbnails made at the same time: each takes a core for a moment."""
PLACEHOLDER = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 240"><rect width="240" height="240" fill="#888" '
    b'fill-opacity=".2"/><path d="M70 70l100 100M170 70L70 170" stroke="#888" stroke-width="8"/></svg>'
)
"""Shown where there is no image, or one that can't be read; the page says so in words."""

router = APIRouter()
_making = CapacityLimiter(AT_A_TIME)
_made = itertools.count(1)


@router.get("/ui/projects/{label_studio_id}/thumbnails/{task}", include_in_schema=False)
async def thumbnail(request: Request, known: site.Known, task: site.Number) -> Response:
    """Give a small picture of a task's image."""
    service = site.services(request)
    address, digest = await to_thread.run_sync(_image, service, known.id, task)
    tag = f'"{_name(known.id, address, digest)}"'
    if digest is not None and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, **_KEPT})
    try:
        small = await to_thread.run_sync(partial(_small, service, known.id, address, digest, task), limiter=_making)
    except ImageUnreadable:
        # A browser shows it as any picture; the trouble may pass, so it is not kept.
        return Response(PLACEHOLDER, media_type="image/svg+xml", headers=_NOT_KEPT)
    return Response(small, media_type="image/webp", headers={"ETag": tag, **_KEPT})


_KEPT = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
_NOT_KEPT = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'",
}


def _image(service: Services, project_id: int, task: int) -> tuple[str, str | None]:
    """Return the address of a task's image, and the hash of its bytes, once it was read."""
    joined = tasks.outerjoin(
        images, sa.and_(images.c.project_id == tasks.c.project_id, images.c.address == tasks.c.image)
    )
    query = sa.select(tasks.c.image, images.c.content_hash).select_from(joined)
    with reading(service.engine) as connection:
        row = connection.execute(query.where(tasks.c.project_id == project_id, tasks.c.id == task)).first()
    if row is None:
        raise HTTPException(404, f"Tandem has not heard of task {task}.")
    return row.image or "", row.content_hash


def _name(project_id: int, address: str, digest: str | None) -> str:
    """Return what a thumbnail is kept under: the content, or the address while the content is not known."""
    source = digest or f"{project_id} {address}"
    return sha256(f"{source} {SIDE} {QUALITY}".encode()).hexdigest()[:40]


def _small(service: Services, project_id: int, address: str, digest: str | None, task: int) -> bytes:
    """Return the thumbnail, made now unless it is kept."""
    folder = service.settings.cache / "thumbnails"
    name = _name(project_id, address, digest)
    path = folder / name[:2] / f"{name}.webp"
    with suppress(OSError):
        kept = path.read_bytes()
        os.utime(path)
        return kept
    if not address:
        raise ImageUnreadable("bad_address", f"Task {task} has no image.")
    picture = decode(service.images.read(address, task), service.settings.image_max_pixels)
    made = shrink(picture)
    if digest is not None:
        # Of an image whose content is not known, another may stand at the address tomorrow.
        _keep(path, made)
        if next(_made) % LOOKED_AFTER == 0:
            prune(folder, KEPT_BYTES)
    return made


def shrink(picture: Image.Image) -> bytes:
    """Return a picture, `SIDE` pixels long at most, as WebP without anything that its file said besides.

    Raises
    ------
    backend.images.ImageUnreadable
        When it can't be made small.
    """
    try:
        small = to_rgb(picture)
        small.thumbnail((SIDE, SIDE), reducing_gap=2.0)
        file = BytesIO()
        Image.frombytes("RGB", small.size, small.tobytes()).save(file, "WEBP", quality=QUALITY, method=2)
        return file.getvalue()
    except (OSError, ValueError, MemoryError) as error:
        raise ImageUnreadable("not_an_image", f"The image can't be made small: {error}.") from error


def prune(folder: Path, limit: int) -> None:
    """Delete what was not looked at for longest until the folder's files take no more than `limit` bytes."""
    known = []
    for path in folder.glob("??/*.webp"):
        with suppress(OSError):
            status = path.stat()
            known.append((status.st_mtime, status.st_size, path))
    size = sum(each for _, each, _ in known)
    for _, each, path in sorted(known):
        if size <= limit:
            return
        path.unlink(missing_ok=True)
        size -= each


def _keep(path: Path, data: bytes) -> None:
    """Write a file that others see whole or not at all; a disk that is full keeps nothing."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
