"""The bytes of a task's image, wherever they lie, and nothing that a task's address must not reach.

An address comes from whoever may import tasks, so it is not trusted: it can not make Tandem read another file or
another machine than the settings allow, nor carry Tandem's credentials anywhere, nor hold it up.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlencode

import boto3
import botocore.config
import botocore.exceptions
import httpcore
import httpx
from PIL import Image

from backend.labelstudio import LabelStudio, LabelStudioError
from backend.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
CLOUD_SCHEMES = frozenset({"s3", "gs", "azure-blob", "azure_spi", "databricks"})
# The addresses under which Label Studio keeps images. Only these are asked for with Tandem's credentials.
LABEL_STUDIO_IMAGES = ("/data/upload/", "/data/local-files/", "/storage-data/uploaded/")
RESOLVER = re.compile(r"/(?:tasks|projects)/\d+/(?:resolve|presign)/?$")
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
REGION = "x-amz-bucket-region"
# Label Studio answers 406 where images alone are accepted.
HEADERS = {"User-Agent": "tandem", "Accept": "*/*", "Accept-Encoding": "identity"}
CHUNK = 1 << 16
# Label Studio closes idle connections, and one that is closed just as it is used again fails: let go first.
KEEP_IDLE = 3.0
# Azure's machine metadata: the one such service that lives at a public address.
METADATA = ipaddress.ip_address("168.63.129.16")
NAT64 = ipaddress.ip_network("64:ff9b::/96")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class ImageUnreadable(Exception):  # noqa: N818 - reads as what it says
    """An image can not be read; the message is a sentence that says why and what to do.

    Parameters
    ----------
    reason
        A short word for counting: ``bad_address``, ``scheme_not_allowed``, ``host_not_allowed``, ``private_address``,
        ``outside_folder``, ``not_found``, ``not_authorized``, ``server_error``, ``too_many_redirects``, ``timeout``,
        ``unreachable``, ``too_large``, ``too_many_pixels``, ``not_an_image`` or ``truncated``.
    message
        The sentence. It holds no query of an address, since presigned addresses carry credentials there.
    temporary
        Whether the same address may well be readable later.
    """

    def __init__(self, reason: str, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.temporary = temporary


class ImageSource:
    """Reads images by the addresses that Label Studio's tasks give.

    ========================================  =======================================================================
    address                                   how it is read
    ========================================  =======================================================================
    ``/data/local-files/?d=...``              from ``settings.label_studio_files`` where it is there; else as uploads
    ``/data/upload/...``                      from Label Studio, with Tandem's credentials, one request
    ``s3://bucket/key``                       from S3, signed by boto3 with this machine's credentials; where it has
                                              none, or S3 refuses them, as the other clouds
    ``gs://``, ``azure-blob://``              through Label Studio's resolver, which redirects or hands the bytes on
    ``http://``, ``https://``                 directly, where ``settings.image_hosts`` has the host
    ========================================  =======================================================================

    Hosts are checked against the allow-list at each redirect; where Label Studio's resolver redirects to, its
    storages' settings have chosen, so that one hop needs no entry. The addresses that a name stands for are checked
    when connecting, and the checked one is connected to, so a name that changes its mind gains nothing. Label Studio
    itself and ``settings.s3_endpoint_url`` are the two places that may be private in any case. No proxy is used. The
    time limit covers everything but the look-up of a name, which the operating system limits.

    Parameters
    ----------
    settings
        Limits and allow-lists: the ``image_*`` settings, ``label_studio_files``, ``s3_endpoint_url``.
    label_studio
        Its ``url`` and ``authorization()`` are used.
    """

    def __init__(self, settings: Settings, label_studio: LabelStudio) -> None:
        self._settings = settings
        self._label_studio = label_studio
        self._base = _parse(label_studio.url.rstrip("/"))
        self._trusted = {_origin(self._base)}
        if settings.s3_endpoint_url:
            self._trusted.add(_origin(_parse(settings.s3_endpoint_url)))
        self._network = _GuardedNetwork({(host, port) for _, host, port in self._trusted}, settings)
        self._pool = httpcore.ConnectionPool(
            max_connections=None,
            max_keepalive_connections=settings.image_downloads,
            keepalive_expiry=KEEP_IDLE,
            network_backend=self._network,
        )
        self._bucket = _Bucket(settings.s3_endpoint_url)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, address: str, task_id: int) -> bytes:
        """Return the bytes behind an address, within the time and size that the settings allow.

        Parameters
        ----------
        address
            As it stands in the task's data.
        task_id
            The task it stands in: Label Studio's resolver asks for it.

        Raises
        ------
        ImageUnreadable
            In all cases in which the bytes are not returned.
        """
        with self._network.time_limit(self._settings.image_timeout):
            return self._read(_unresolved(address), task_id)

    def _read(self, address: str, task_id: int) -> bytes:
        scheme = address.partition("://")[0].lower()
        if scheme == "s3":
            return self._read_s3(address, task_id)
        if scheme in CLOUD_SCHEMES:
            return self._read_through_resolver(address, task_id)
        url = self._absolute(address)
        path = self._label_studio_path(url)
        if path.startswith("/data/local-files/") and self._settings.label_studio_files is not None:
            try:
                return self._read_file(self._settings.label_studio_files, _local_path(url))
            except FileNotFoundError:
                pass  # Label Studio may have storages elsewhere, or know a file that has only just come
        if not path.startswith(LABEL_STUDIO_IMAGES):
            return self._fetch(url)
        if ".." in PurePosixPath(path).parts:
            raise ImageUnreadable(
                "outside_folder", f"'{path}' climbs out of Label Studio's image folders. Correct the task's address."
            )
        return self._fetch(url, self._authorization())

    def _authorization(self) -> dict[str, str]:
        try:
            return self._label_studio.authorization()
        except LabelStudioError as error:
            reason = "not_authorized" if error.status else "unreachable"
            raise ImageUnreadable(reason, str(error), temporary=not error.status) from error

    def _absolute(self, address: str) -> httpx.URL:
        if not address.startswith("/") or address.startswith("//"):
            url = _parse(address)
            if not url.scheme:
                raise ImageUnreadable(
                    "bad_address",
                    f"'{_shown(address)}' is no address of an image. Give http(s)://..., s3://..., or a path that "
                    "Label Studio serves, such as /data/upload/... or /data/local-files/?d=...",
                )
            return url
        # Label Studio under a path of its own writes that path into some addresses and leaves it out of others.
        prefix = self._base.path.rstrip("/")
        root = str(self._base.copy_with(raw_path=b"/")).rstrip("/")
        return _parse(root + ("" if prefix and address.startswith(prefix + "/") else prefix) + address)

    def _label_studio_path(self, url: httpx.URL) -> str:
        """Return the path inside Label Studio, or an empty string for an address elsewhere."""
        if _origin(url) != _origin(self._base):
            return ""
        return unquote(url.path).removeprefix(self._base.path.rstrip("/"))

    def _read_file(self, folder: Path, path: str) -> bytes:
        root = folder.resolve()
        try:
            found = (root / path.lstrip("/")).resolve()
            if not found.is_relative_to(root):
                raise ImageUnreadable(
                    "outside_folder",
                    f"'{path}' leads out of Label Studio's local-files folder. Move the image into it; "
                    "links that lead out are not followed.",
                )
            # Opening a pipe would wait for its writer, however long.
            with open(found, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise FileNotFoundError(found)
                return self._collect(iter(lambda: file.read(CHUNK), b""), status.st_size)
        except FileNotFoundError:
            raise
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(path) from error
        except PermissionError as error:
            raise ImageUnreadable(
                "not_authorized", f"Tandem may not read '{path}' in Label Studio's local-files folder. Let it."
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise ImageUnreadable(
                "bad_address", f"'{_shown(path)}' can not be the path of a file: {error}. Correct the task's address."
            ) from error

    def _read_s3(self, address: str, task_id: int) -> bytes:
        try:
            return self._read_signed(address)
        except ImageUnreadable as unreadable:
            # Label Studio's storage may hold other credentials, or know of another server.
            direct = unreadable
        try:
            return self._read_through_resolver(address, task_id)
        except ImageUnreadable as resolved:
            raise ImageUnreadable(
                resolved.reason,
                f"{resolved} Directly from S3: {direct}",
                temporary=resolved.temporary or direct.temporary,
            ) from direct

    def _read_signed(self, address: str) -> bytes:
        bucket, _, key = address[len("s3://") :].partition("/")
        try:
            return self._fetch(_parse(self._bucket.sign(bucket, key)), chosen_for_us=True)
        except _WrongRegion as wrong:
            return self._fetch(_parse(self._bucket.sign(bucket, key, wrong.region)), chosen_for_us=True)

    def _read_through_resolver(self, address: str, task_id: int) -> bytes:
        encoded = base64.urlsafe_b64encode(address.encode()).decode()
        url = self._absolute(f"/tasks/{task_id}/resolve/?{urlencode({'fileuri': encoded})}")
        try:
            return self._fetch(url, self._authorization())
        except _NotFound as missing:
            raise ImageUnreadable(
                missing.reason,
                f"Label Studio can not resolve {_shown(address)}. Add a cloud storage for it to the project, or give "
                "Tandem credentials of its own if it is on S3.",
            ) from missing

    def _fetch(
        self, url: httpx.URL, authorization: Mapping[str, str] | None = None, *, chosen_for_us: bool = False
    ) -> bytes:
        """Get an address, following redirects.

        `chosen_for_us` says that the settings chose the host and not the task. The credentials are sent with the
        first request only.
        """
        for _ in range(MAX_REDIRECTS + 1):
            if not chosen_for_us:
                self._check_host(url)
            headers = [("Host", url.netloc.decode("ascii")), *HEADERS.items(), *(authorization or {}).items()]
            try:
                with self._pool.stream("GET", _for_wire(url), headers=headers) as response:
                    answer = {
                        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
                    }
                    if response.status == 200:
                        return self._collect(response.iter_stream(), int(answer.get("content-length", 0)))
                    elsewhere = response.status in REDIRECTS and "location" in answer
                    if not elsewhere or (chosen_for_us and REGION in answer):
                        raise self._refusal(url, response.status, answer)
            except httpcore.TimeoutException as error:
                raise ImageUnreadable(
                    "timeout",
                    f"{_shown(str(url))} was not read within {self._settings.image_timeout:g} s. Raise "
                    "TANDEM_IMAGE_TIMEOUT if its server is slow.",
                    temporary=True,
                ) from error
            except (httpcore.NetworkError, httpcore.ProtocolError) as error:
                raise ImageUnreadable(
                    "unreachable",
                    f"{_shown(str(url))} did not answer ({error}). See that its server runs and that this machine "
                    "reaches it.",
                    temporary=True,
                ) from error
            chosen_for_us = authorization is not None
            authorization = None
            url = _parse(str(_joined(url, answer["location"])))
        raise ImageUnreadable(
            "too_many_redirects", f"{_shown(str(url))} was redirected to more than {MAX_REDIRECTS} times. Correct it."
        )

    def _check_host(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https"):
            raise ImageUnreadable(
                "scheme_not_allowed",
                f"Images are not read from {url.scheme}: addresses. Use http(s)://, {', '.join(sorted(CLOUD_SCHEMES))}"
                ":// or upload the image to Label Studio.",
            )
        host = url.host.rstrip(".").lower()
        if not host:
            raise ImageUnreadable("bad_address", f"'{_shown(str(url))}' names no host. Correct the task's address.")
        allowed = self._settings.image_hosts
        if _origin(url) not in self._trusted and not any(fnmatchcase(host, pattern.lower()) for pattern in allowed):
            raise ImageUnreadable(
                "host_not_allowed", f"Images are not read from {host}. Add it to TANDEM_IMAGE_HOSTS if they should be."
            )

    def _refusal(self, url: httpx.URL, status: int, answer: Mapping[str, str]) -> ImageUnreadable:
        shown = _shown(str(url))
        region = answer.get(REGION, "")
        if status in (301, 307, 400, 403) and region and region not in str(url):
            return _WrongRegion(region)
        if status in (404, 410):
            return _NotFound("not_found", f"{shown} is not there. Correct the task's address or put the image back.")
        if status in (401, 403):
            what = (
                "See that TANDEM_LABEL_STUDIO_API_KEY is a key of a user who may open the project."
                if _origin(url) == _origin(self._base)
                else "Tandem sends no credentials there; use a cloud storage of Label Studio or a public address."
            )
            return ImageUnreadable("not_authorized", f"{shown} refuses Tandem with {status}. {what}")
        return ImageUnreadable(
            "server_error",
            f"{shown} answered {status}. See that server's log.",
            temporary=status >= 500 or status in (408, 425, 429),
        )

    def _collect(self, chunks: Iterable[bytes], announced: int) -> bytes:
        limit = self._settings.image_max_bytes
        body = bytearray()
        if announced <= limit:
            for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    break
            else:
                return bytes(body)
        raise ImageUnreadable(
            "too_large",
            f"The image is larger than {limit} bytes. Make it smaller or raise TANDEM_IMAGE_MAX_BYTES.",
        )


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Return the image that is in some bytes, all of it in memory.

    The format is told from the bytes, never from a name. The size is checked before anything is decoded. Of several
    frames it is the first. EXIF orientation, colour mode and alpha are as in the file.

    Parameters
    ----------
    data
        A file of one of `FORMATS`.
    max_pixels
        Largest width times height. Pillow itself refuses more than 178,956,970.

    Raises
    ------
    ImageUnreadable
        ``not_an_image``, ``truncated`` or ``too_many_pixels``.

    Examples
    --------
    >>> file = BytesIO()
    >>> Image.new("L", (3, 2)).save(file, "PNG")
    >>> decode(file.getvalue(), max_pixels=6).size
    (3, 2)
    >>> decode(file.getvalue(), max_pixels=5)
    Traceback (most recent call last):
    backend.images.ImageUnreadable: The image has 3 x 2 pixels, more than 5. ...
    """
    try:
        _open(data, max_pixels).verify()  # leaves the image unusable
        image = _open(data, max_pixels)
        image.load()
    except ImageUnreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(str(error)) from error
    except MemoryError as error:
        raise _too_many_pixels("The image does not fit into memory.") from error
    except Exception as error:  # Pillow's readers raise whatever their parsing happens to meet in broken files
        if "truncated" in str(error).lower():
            raise ImageUnreadable(
                "truncated", f"The image file ends too early: {error}. Upload the whole file again."
            ) from error
        raise ImageUnreadable(
            "not_an_image",
            f"The file is not an image that Tandem reads ({', '.join(FORMATS)}), or it is damaged. "
            "See what its address shows in a browser.",
        ) from error
    return image


def content_hash(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal.

    Examples
    --------
    >>> content_hash(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        raise _too_many_pixels(f"The image has {width} x {height} pixels, more than {max_pixels}.")
    return image


def _too_many_pixels(what: str) -> ImageUnreadable:
    return ImageUnreadable("too_many_pixels", f"{what} Make it smaller or raise TANDEM_IMAGE_MAX_PIXELS.")


class _NotFound(ImageUnreadable):
    """The server says there is no such image."""


class _WrongRegion(ImageUnreadable):
    """S3 says that the bucket is in another region than the signature."""

    def __init__(self, region: str) -> None:
        super().__init__(
            "server_error",
            f"The bucket is in the region {region}, and its address was signed for another. Set that region in Label "
            "Studio's storage.",
        )
        self.region = region


class _Bucket:
    """Signs addresses of S3 objects with this machine's credentials. Signing needs no network."""

    def __init__(self, endpoint_url: str) -> None:
        self._endpoint_url = endpoint_url
        self._lock = threading.Lock()
        self._clients: dict[str | None, Any] = {}

    def sign(self, bucket: str, key: str, region: str | None = None) -> str:
        """Return an address that reads an object for a few minutes.

        Raises
        ------
        ImageUnreadable
            Without credentials, or where the name of the bucket or key can not be one.
        """
        try:
            client = self._client(region)
            if client is None:
                raise ImageUnreadable(
                    "not_authorized", "This machine has no credentials for S3. Set AWS_ACCESS_KEY_ID and its secret."
                )
            signed = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=300)
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise ImageUnreadable("bad_address", f"boto3 can not sign it: {error}") from error
        return str(signed)

    def _client(self, region: str | None) -> Any:
        with self._lock:
            if region not in self._clients:
                session = boto3.session.Session()
                # Looking for credentials may ask the machine's metadata service, so it is done once.
                self._clients[region] = session.get_credentials() and session.client(
                    "s3",
                    region_name=region,
                    endpoint_url=self._endpoint_url or None,
                    config=botocore.config.Config(signature_version="s3v4"),
                )
            return self._clients[region]


class _GuardedNetwork(httpcore.NetworkBackend):
    """Connects only to permitted addresses, and lets nothing outlast the time limit of the thread that waits.

    A limit per read would let a server that sends one byte at a time hold a connection for ever.
    """

    def __init__(self, trusted: set[tuple[str, int]], settings: Settings) -> None:
        self._trusted = trusted
        self._private_allowed = settings.image_private_addresses
        self._plain = httpcore.SyncBackend()
        self._limit = threading.local()

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Let whatever this thread sends and receives in the block take so long, all together."""
        self._limit.end = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._limit.end

    def time_left(self) -> float:
        """Seconds until the time limit of this thread."""
        left: float = self._limit.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that is permitted and answers."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the host {host} is not known ({error})") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if (host, port) not in self._trusted:
            addresses = [
                address for address in addresses if _permitted(ipaddress.ip_address(address), self._private_allowed)
            ]
        if not addresses:
            raise ImageUnreadable(
                "private_address",
                f"{host} is an address inside your network. Set TANDEM_IMAGE_PRIVATE_ADDRESSES=true if images "
                "may come from there; addresses of machine metadata are refused in any case.",
            )
        failure: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                stream = self._plain.connect_tcp(address, port, self.time_left(), local_address, socket_options)
                return _LimitedStream(stream, self)
            except httpcore.ConnectError as error:
                failure = error
        raise failure or httpcore.ConnectError(host)


class _LimitedStream(httpcore.NetworkStream):
    """A connection whose every wait ends at the time limit."""

    def __init__(self, stream: httpcore.NetworkStream, network: _GuardedNetwork) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.time_left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.time_left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _LimitedStream(
            self._stream.start_tls(ssl_context, server_hostname, self._network.time_left()), self._network
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _permitted(address: IPAddress, private_allowed: bool) -> bool:
    """Whether an untrusted name may stand for an address.

    Examples
    --------
    >>> _permitted(ipaddress.ip_address("93.184.216.34"), private_allowed=False)
    True
    >>> _permitted(ipaddress.ip_address("::ffff:10.0.0.1"), private_allowed=False)
    False
    >>> _permitted(ipaddress.ip_address("169.254.169.254"), private_allowed=True)
    False
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return _permitted(inner, private_allowed)
    if address.is_link_local or address.is_multicast or address.is_unspecified or address == METADATA:
        return False
    return address.is_global or private_allowed


def _parse(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
        if url.port is not None and not 0 < url.port < 1 << 16:
            raise ValueError(f"{url.port} is no port")
        url.raw_host  # noqa: B018  the name is only encoded when it is asked for
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise ImageUnreadable(
            "bad_address", f"'{_shown(address)}' is no address: {error}. Correct the task's address."
        ) from error
    return url


def _joined(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except (httpx.InvalidURL, ValueError) as error:
        raise ImageUnreadable(
            "bad_address", f"{_shown(str(url))} redirects to what is no address. Correct the task's address."
        ) from error


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.raw_host.decode("ascii"), url.port or {"https": 443}.get(url.scheme, 80)


def _for_wire(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _local_path(url: httpx.URL) -> str:
    """Return the path that ``/data/local-files/?d=path`` names."""
    paths = parse_qs(url.query.decode("ascii"), keep_blank_values=True).get("d", [""])
    return paths[-1]


def _unresolved(address: str) -> str:
    """Return the cloud address that Label Studio's API has replaced by one of its resolver.

    Examples
    --------
    >>> _unresolved("/tasks/7/resolve/?fileuri=czM6Ly9iL2s=")
    's3://b/k'
    >>> _unresolved("/data/upload/1/a.png")
    '/data/upload/1/a.png'
    """
    path, _, query = address.partition("?")
    if not RESOLVER.search(path):
        return address
    try:
        decoded = base64.urlsafe_b64decode(parse_qs(query)["fileuri"][0]).decode()
    except (KeyError, binascii.Error, ValueError):
        return address
    return decoded if decoded.partition("://")[0] in CLOUD_SCHEMES else address


def _shown(address: str) -> str:
    """Return an address as it may stand in a log: short, without user, query and fragment.

    Examples
    --------
    >>> _shown("https://me:secret@example.org/a.png?signature=secret")
    'https://example.org/a.png'
    """
    scheme, separator, rest = address.partition("://")
    if separator:
        host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        address = scheme + separator + host.rpartition("@")[2] + slash + path
    return address if len(address) <= 200 else address[:200] + "..."
