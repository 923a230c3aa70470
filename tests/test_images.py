"""Images of tasks are read from wherever they lie, and nothing else is."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import boto3
import httpcore
import httpx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from backend import images
from backend.images import ImageSource, ImageUnreadable, content_hash, decode
from backend.labelstudio import LabelStudio
from backend.settings import Settings
from tests.conftest import S3
from tests.conftest import LabelStudio as LabelStudioServer

KEY = "0123456789abcdef"


def settings_of(**values: Any) -> Settings:
    """Return settings that no file of this machine has a say in."""
    return Settings(**({"_env_file": None} | values))


Answer = Callable[[BaseHTTPRequestHandler], None]


def png(color: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | named).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return send


class Site:
    """An HTTP server on this machine that notes what it is asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, Message]] = []
        self.stopping = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append((self.path, self.headers))
                send = site.answers.get(self.path.partition("?")[0], answer(b"no such page", 404))
                try:
                    send(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def close(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    """Somebody's web server."""
    with closing(Site()) as site:
        yield site


@pytest.fixture
def fake_label_studio() -> Iterator[Site]:
    """Answers as Label Studio does where the test says so."""
    with closing(Site()) as site:
        yield site


Make = Callable[..., ImageSource]


@pytest.fixture
def source(fake_label_studio: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Make]:
    """Makes image sources with the settings that the test gives."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "TANDEM_", "LABEL_STUDIO_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    made: list[ImageSource] = []

    def make(label_studio_url: str = "", **values: Any) -> ImageSource:
        client = LabelStudio(label_studio_url or fake_label_studio.url, KEY)
        client.close()  # the header of a legacy key needs no connection
        made.append(ImageSource(settings_of(**values), client))
        return made[-1]

    yield make
    for one in made:
        one.close()


def reason(source: ImageSource, address: str, task_id: int = 1) -> str:
    with pytest.raises(ImageUnreadable) as caught:
        source.read(address, task_id)
    return caught.value.reason


# Label Studio's own addresses


def test_an_upload_is_read_with_credentials_in_one_request(source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers["/data/upload/2/a%20b.png"] = answer(png())
    assert source().read("/data/upload/2/a b.png", 1) == png()
    [(path, headers)] = fake_label_studio.asked
    assert path == "/data/upload/2/a%20b.png"
    assert headers["Authorization"] == f"Token {KEY}"
    assert headers["Host"] == f"127.0.0.1:{fake_label_studio.port}"


@pytest.mark.parametrize("address", ["/data/upload/1/a.png", "/labels/data/upload/1/a.png"])
def test_label_studio_under_a_path_of_its_own(address: str, source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers["/labels/data/upload/1/a.png"] = answer(png())
    assert source(fake_label_studio.url + "/labels").read(address, 1) == png()
    assert "Authorization" in fake_label_studio.asked[0][1]


def test_an_upload_given_with_label_studios_host_needs_no_entry_in_the_list(
    source: Make, fake_label_studio: Site
) -> None:
    fake_label_studio.answers["/data/upload/1/a.png"] = answer(png())
    assert source().read(fake_label_studio.url + "/data/upload/1/a.png", 1) == png()
    assert "Authorization" in fake_label_studio.asked[0][1]


@pytest.mark.parametrize("path", ["/api/users", "/static/samples/sample.jpg", "/tasks/1/resolve/?fileuri=eA=="])
def test_credentials_are_for_images_only(path: str, source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers[path.partition("?")[0]] = answer(png())
    source().read(path, 1)
    assert "Authorization" not in fake_label_studio.asked[0][1]


@pytest.mark.parametrize(
    "address",
    ["/data/upload/%2e%2e/%2e%2e/api/users", "/data/upload/..%2f..%2fapi/users", "/data/local-files/%2e%2e/x?d=a"],
)
def test_credentials_do_not_climb_out_of_the_image_folders(address: str, source: Make, fake_label_studio: Site) -> None:
    assert reason(source(), address) == "outside_folder"
    assert fake_label_studio.asked == []


def test_dots_in_the_clear_lose_the_credentials(source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers["/api/users"] = answer(b"{}")
    source().read("/data/upload/../../api/users", 1)
    assert [("Authorization" in headers) for _, headers in fake_label_studio.asked] == [False]


def test_a_refused_key_says_which_setting_to_see(source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers["/data/upload/1/a.png"] = answer(b"", 401)
    with pytest.raises(ImageUnreadable, match="TANDEM_LABEL_STUDIO_API_KEY") as caught:
        source().read("/data/upload/1/a.png", 1)
    assert (caught.value.reason, caught.value.temporary) == ("not_authorized", False)


# Redirects and credentials


def test_credentials_do_not_leave_label_studio(source: Make, fake_label_studio: Site, site: Site) -> None:
    fake_label_studio.answers["/data/upload/1/a.png"] = answer(status=302, Location=f"{site.url}/a.png")
    site.answers["/a.png"] = answer(png())
    assert source(image_private_addresses=True).read("/data/upload/1/a.png", 1) == png()
    assert [headers["Authorization"] for _, headers in site.asked] == [None]


def test_credentials_are_not_sent_again_after_a_redirect(source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers["/data/upload/1/a.png"] = answer(status=302, Location="/data/upload/1/b.png")
    fake_label_studio.answers["/data/upload/1/b.png"] = answer(png())
    source().read("/data/upload/1/a.png", 1)
    assert [headers["Authorization"] for _, headers in fake_label_studio.asked] == [f"Token {KEY}", None]


def test_a_user_and_password_in_an_address_are_not_sent(source: Make, site: Site) -> None:
    site.answers["/a.png"] = answer(png())
    allowed = source(image_hosts=["127.0.0.1"], image_private_addresses=True)
    allowed.read(f"http://me:secret@127.0.0.1:{site.port}/a.png", 1)
    assert [headers["Authorization"] for _, headers in site.asked] == [None]


def test_label_studios_redirect_may_not_lead_to_a_private_address(
    source: Make, fake_label_studio: Site, site: Site
) -> None:
    fake_label_studio.answers["/tasks/7/resolve/"] = answer(status=303, Location=f"{site.url}/a.png")
    assert reason(source(), "gs://bucket/a.png", 7) == "private_address"
    assert site.asked == []


def test_label_studios_redirect_may_lead_to_the_s3_server_of_the_settings(
    source: Make, fake_label_studio: Site, site: Site
) -> None:
    fake_label_studio.answers["/tasks/7/resolve/"] = answer(status=303, Location=f"{site.url}/bucket/a.png?sign=x")
    site.answers["/bucket/a.png"] = answer(png())
    assert source(s3_endpoint_url=site.url).read("gs://bucket/a.png", 7) == png()
    assert site.paths() == ["/bucket/a.png?sign=x"]


def test_only_label_studios_own_redirect_needs_no_entry_in_the_list(
    source: Make, fake_label_studio: Site, site: Site
) -> None:
    fake_label_studio.answers["/tasks/7/resolve/"] = answer(status=303, Location=f"{site.url}/a.png")
    site.answers["/a.png"] = answer(status=302, Location="/b.png")
    assert reason(source(image_private_addresses=True), "gs://bucket/a.png", 7) == "host_not_allowed"
    assert site.paths() == ["/a.png"]


def test_a_redirect_to_a_host_off_the_list_is_not_followed(source: Make, site: Site) -> None:
    site.answers["/a.png"] = answer(status=302, Location=f"http://127.0.0.1:{site.port}/b.png")
    allowed = source(image_hosts=["localhost"], image_private_addresses=True)
    assert reason(allowed, f"http://localhost:{site.port}/a.png") == "host_not_allowed"
    assert site.paths() == ["/a.png"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"])
def test_a_redirect_to_another_scheme_is_not_followed(location: str, source: Make, site: Site) -> None:
    site.answers["/a.png"] = answer(status=302, Location=location)
    allowed = source(image_hosts=["*"], image_private_addresses=True)
    assert reason(allowed, f"{site.url}/a.png") == "scheme_not_allowed"


@pytest.mark.parametrize(
    ("location", "expected"), [("/a.png", "too_many_redirects"), ("http://a:99999/", "bad_address")]
)
def test_redirects_that_lead_nowhere_end(location: str, expected: str, source: Make, site: Site) -> None:
    site.answers["/a.png"] = answer(status=302, Location=location)
    allowed = source(image_hosts=["*"], image_private_addresses=True)
    assert reason(allowed, f"{site.url}/a.png") == expected
    assert len(site.asked) <= images.MAX_REDIRECTS + 1


# Hosts and addresses


@pytest.mark.parametrize(
    ("pattern", "host", "allowed"),
    [
        ("images.example.org", "images.example.org", True),
        ("images.example.org", "IMAGES.example.org.", True),
        ("*.example.org", "a.b.example.org", True),
        ("*", "anything.example.net", True),
        ("*.example.org", "example.org.evil.net", False),
        ("*.example.org", "evilexample.org", False),
        ("images.example.org", "example.org", False),
    ],
)
def test_hosts_are_allowed_by_name(
    pattern: str, host: str, allowed: bool, source: Make, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers["/a.png"] = answer(png())
    resolve_to(monkeypatch, "127.0.0.1")
    one = source(image_hosts=[pattern], image_private_addresses=True)
    if allowed:
        assert one.read(f"http://{host}:{site.port}/a.png", 1) == png()
    else:
        assert reason(one, f"http://{host}:{site.port}/a.png") == "host_not_allowed"
        assert site.asked == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"],
)
def test_an_allowed_host_at_a_private_address_is_not_asked(host: str, source: Make, site: Site) -> None:
    assert reason(source(image_hosts=["*"]), f"http://{host}:{site.port}/a.png") == "private_address"
    assert site.asked == []


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "168.63.129.16", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"]
)
def test_machine_metadata_is_refused_even_where_private_addresses_are_allowed(host: str, source: Make) -> None:
    allowed = source(image_hosts=["*"], image_private_addresses=True)
    assert reason(allowed, f"http://{host}/latest/meta-data/") == "private_address"


def test_a_name_that_changes_its_mind_is_connected_to_where_it_was_checked(
    source: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[str] = []

    def note(self: httpcore.SyncBackend, host: str, *_: object) -> NoReturn:
        connected.append(host)
        raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", note)
    asked = resolve_to(monkeypatch, "93.184.216.34", "127.0.0.1")
    assert reason(source(image_hosts=["*"]), "http://rebinding.example.org/a.png") == "unreachable"
    assert connected == ["93.184.216.34"]
    assert asked == ["rebinding.example.org"]


def test_of_several_addresses_only_the_permitted_are_tried(source: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[str] = []

    def note(self: httpcore.SyncBackend, host: str, *_: object) -> NoReturn:
        connected.append(host)
        raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", note)
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("10.0.0.1", "93.184.216.34")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    assert reason(source(image_hosts=["*"]), "http://both.example.org/a.png") == "unreachable"
    assert connected == ["93.184.216.34"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", "scheme_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("ftp://example.org/a.png", "scheme_not_allowed"),
        ("javascript:alert(1)", "scheme_not_allowed"),
        ("https://example.org/a.png", "host_not_allowed"),
        ("//example.org/a.png", "bad_address"),
        ("a.png", "bad_address"),
        ("", "bad_address"),
        ("http://", "bad_address"),
        ("http:///a.png", "bad_address"),
        ("http://127.0.0.1:99999/a.png", "bad_address"),
        ("http://exa\x00mple.org/", "bad_address"),
        ("http://[::1/a.png", "bad_address"),
        (f"http://{'a' * 64}.example.org/", "host_not_allowed"),
    ],
)
def test_other_addresses_are_refused(address: str, expected: str, source: Make) -> None:
    assert reason(source(), address) == expected


@given(address=st.text(max_size=40) | st.text(max_size=30).map("http://{}".format))
@settings(deadline=None, max_examples=300)
def test_no_text_in_a_task_breaks_it(address: str) -> None:
    client = LabelStudio("http://127.0.0.1:9", KEY)  # nobody listens on the discard port
    client.close()
    with ImageSource(settings_of(image_timeout=1.0), client) as source, pytest.raises(ImageUnreadable):
        source.read(address, 1)


def test_a_name_that_nobody_knows_is_unreachable(source: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ImageUnreadable, match="not known") as caught:
        source(image_hosts=["*"]).read("http://nowhere.example.org/a.png", 1)
    assert (caught.value.reason, caught.value.temporary) == ("unreachable", True)


def test_what_presigned_addresses_carry_stays_out_of_messages(source: Make, site: Site) -> None:
    allowed = source(image_hosts=["*"], image_private_addresses=True)
    with pytest.raises(ImageUnreadable) as caught:
        allowed.read(f"http://me:secret@127.0.0.1:{site.port}/a.png?X-Amz-Signature=secret#secret", 1)
    assert "/a.png" in str(caught.value)
    assert "secret" not in str(caught.value)


# Time and size


def drip(head: bytes, body: bytes) -> Answer:
    """Send a good answer, one byte in each fifth of a second after the head."""

    def send(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(head)
        site_stopping = request.server.stopping  # type: ignore[attr-defined]
        for byte in body:
            request.wfile.write(bytes([byte]))
            if site_stopping.wait(0.2):
                break
        request.close_connection = True

    return send


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", b"x" * 20),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x" * 12 + b"\r\nContent-Length: 0\r\n\r\n"),
        (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["body", "header", "status"],
)
def test_a_server_that_drips_is_left(head: bytes, body: bytes, source: Make, site: Site) -> None:
    site.server.stopping = site.stopping  # type: ignore[attr-defined]
    site.answers["/a.png"] = drip(head, body)
    allowed = source(image_hosts=["*"], image_private_addresses=True, image_timeout=0.5)
    with pytest.raises(ImageUnreadable, match="TANDEM_IMAGE_TIMEOUT") as caught:
        allowed.read(f"{site.url}/a.png", 1)
    assert (caught.value.reason, caught.value.temporary) == ("timeout", True)


def test_redirects_share_one_time_limit(source: Make, site: Site) -> None:
    def slow(request: BaseHTTPRequestHandler) -> None:
        site.stopping.wait(0.3)
        answer(status=302, Location=f"/{len(site.asked)}.png")(request)

    for number in range(6):
        site.answers[f"/{number}.png"] = slow
    allowed = source(image_hosts=["*"], image_private_addresses=True, image_timeout=0.5)
    assert reason(allowed, f"{site.url}/0.png") == "timeout"


def test_an_image_that_says_it_is_too_large_is_not_read(source: Make, site: Site) -> None:
    site.answers["/a.png"] = answer(b"", Content_Length=str(1 << 40))
    allowed = source(image_hosts=["*"], image_private_addresses=True)
    with pytest.raises(ImageUnreadable, match="TANDEM_IMAGE_MAX_BYTES") as caught:
        allowed.read(f"{site.url}/a.png", 1)
    assert (caught.value.reason, caught.value.temporary) == ("too_large", False)


def test_an_image_that_turns_out_too_large_is_left(source: Make, site: Site) -> None:
    sent: list[int] = []

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(20_000):  # 1.3 GB
            sent.append(request.wfile.write(bytes(1 << 16)))

    site.answers["/a.png"] = endless
    allowed = source(image_hosts=["*"], image_private_addresses=True, image_max_bytes=1 << 20)
    assert reason(allowed, f"{site.url}/a.png") == "too_large"
    assert sum(sent) < 200 << 20


def test_an_image_of_exactly_the_limit_is_read(source: Make, site: Site) -> None:
    site.answers["/a.png"] = answer(b"x" * 1000)
    allowed = {"image_hosts": ["*"], "image_private_addresses": True}
    assert len(source(image_max_bytes=1000, **allowed).read(f"{site.url}/a.png", 1)) == 1000
    assert reason(source(image_max_bytes=999, **allowed), f"{site.url}/a.png") == "too_large"


@pytest.mark.parametrize(
    ("status", "expected", "temporary"),
    [
        (404, "not_found", False),
        (410, "not_found", False),
        (403, "not_authorized", False),
        (418, "server_error", False),
        (304, "server_error", False),
        (429, "server_error", True),
        (503, "server_error", True),
    ],
)
def test_a_server_that_refuses(status: int, expected: str, temporary: bool, source: Make, site: Site) -> None:
    site.answers["/a.png"] = answer(b"", status)
    with pytest.raises(ImageUnreadable) as caught:
        source(image_hosts=["*"], image_private_addresses=True).read(f"{site.url}/a.png", 1)
    assert (caught.value.reason, caught.value.temporary) == (expected, temporary)


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"", b"SSH-2.0-hello\r\n"])
def test_a_server_that_breaks_off_may_work_later(sent: bytes, source: Make, site: Site) -> None:
    def break_off(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(sent)
        request.close_connection = True

    site.answers["/a.png"] = break_off
    with pytest.raises(ImageUnreadable) as caught:
        source(image_hosts=["*"], image_private_addresses=True).read(f"{site.url}/a.png", 1)
    assert (caught.value.reason, caught.value.temporary) == ("unreachable", True)


# Local files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Label Studio's local-files folder, with a secret beside it."""
    root = tmp_path / "files"
    (root / "cats").mkdir(parents=True)
    (root / "cats" / "a b.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png("black"))
    (tmp_path / "files-of-others").mkdir()
    (tmp_path / "files-of-others" / "a.png").write_bytes(png("black"))
    return root


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=cats/a%20b.png",
        "/data/local-files/?d=cats%2Fa+b.png",
        "{}/data/local-files/?d=/cats/a b.png",
    ],
)
def test_a_local_file_is_read_without_asking(address: str, folder: Path, source: Make, fake_label_studio: Site) -> None:
    assert source(label_studio_files=folder).read(address.format(fake_label_studio.url), 1) == png()
    assert fake_label_studio.asked == []


def test_a_local_file_that_this_machine_lacks_is_asked_for(folder: Path, source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers["/data/local-files/"] = answer(png("blue"))
    assert source(label_studio_files=folder).read("/data/local-files/?d=cats/new%20one.png", 1) == png("blue")
    [(path, headers)] = fake_label_studio.asked
    assert path == "/data/local-files/?d=cats/new%20one.png"
    assert headers["Authorization"] == f"Token {KEY}"


@pytest.mark.parametrize(
    "path", ["../secret.png", "cats/../../secret.png", "/../secret.png", "../files-of-others/a.png", "..%2Fsecret.png"]
)
def test_a_path_out_of_the_folder_is_refused(path: str, folder: Path, source: Make, fake_label_studio: Site) -> None:
    assert reason(source(label_studio_files=folder), f"/data/local-files/?d={path}") == "outside_folder"
    assert fake_label_studio.asked == []


def test_links_are_followed_inside_the_folder_only(folder: Path, source: Make) -> None:
    (folder / "inside.png").symlink_to(folder / "cats" / "a b.png")
    (folder / "outside.png").symlink_to(folder.parent / "secret.png")
    (folder / "up").symlink_to(folder.parent)
    one = source(label_studio_files=folder)
    assert one.read("/data/local-files/?d=inside.png", 1) == png()
    assert reason(one, "/data/local-files/?d=outside.png") == "outside_folder"
    assert reason(one, "/data/local-files/?d=up/secret.png") == "outside_folder"


def test_a_folder_that_is_a_link_itself_works(folder: Path, source: Make) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert source(label_studio_files=link).read("/data/local-files/?d=cats/a%20b.png", 1) == png()


def test_what_is_no_file_is_not_waited_for(folder: Path, source: Make) -> None:
    os.mkfifo(folder / "pipe.png")
    one = source(label_studio_files=folder)
    for path in ("pipe.png", "cats", "", "cats/a%20b.png/x"):
        assert reason(one, f"/data/local-files/?d={path}") == "not_found", path
    assert reason(one, "/data/local-files/?d=a%00b") == "bad_address"
    assert reason(one, f"/data/local-files/?d={'a' * 5000}") == "bad_address"


def test_links_in_a_ring_are_refused(folder: Path, source: Make) -> None:
    (folder / "a.png").symlink_to(folder / "b.png")
    (folder / "b.png").symlink_to(folder / "a.png")
    assert reason(source(label_studio_files=folder), "/data/local-files/?d=a.png") == "bad_address"


def test_a_large_local_file_is_refused(folder: Path, source: Make) -> None:
    one = source(label_studio_files=folder, image_max_bytes=10)
    assert reason(one, "/data/local-files/?d=cats/a%20b.png") == "too_large"


parts = st.sampled_from(
    ["..", ".", "", "cats", "a b.png", "secret.png", "files-of-others", "a.png", "~", "\x00", "%2e%2e"]
)


@given(path=st.lists(parts | st.text(max_size=5), max_size=8).map("/".join))
@example(path="../secret.png")
@settings(deadline=None, max_examples=300)
def test_no_path_reads_outside_the_folder(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp() / "climbing"
    root = base / "files"
    if not root.exists():
        (root / "cats").mkdir(parents=True)
        (root / "cats" / "a b.png").write_bytes(b"inside")
        for outside in ("secret.png", "files-of-others", "a.png"):
            (base / outside).write_bytes(b"outside")
    client = LabelStudio("http://127.0.0.1:9", KEY)
    client.close()
    query = httpx.QueryParams({"d": path})
    with ImageSource(settings_of(label_studio_files=root), client) as source:
        outcome: bytes | str
        try:
            outcome = source.read(f"/data/local-files/?{query}", 1)
        except ImageUnreadable as unreadable:
            outcome = unreadable.reason
    assert outcome in {b"inside", "outside_folder", "bad_address", "unreachable"}


# Clouds


def test_clouds_are_read_through_label_studios_resolver(source: Make, fake_label_studio: Site) -> None:
    fake_label_studio.answers["/tasks/7/resolve/"] = answer(png())
    for address in ("gs://bucket/a b?.png", "azure-blob://container/ü.png", "s3://bucket/a.png"):
        assert source().read(address, 7) == png()
        path, headers = fake_label_studio.asked[-1]
        assert base64.urlsafe_b64decode(httpx.URL(path).params["fileuri"]).decode() == address
        assert headers["Authorization"] == f"Token {KEY}"


def test_an_address_of_the_resolver_is_what_it_stands_for(source: Make, fake_label_studio: Site) -> None:
    """Label Studio's API gives such addresses in place of the cloud's."""
    fake_label_studio.answers["/tasks/7/resolve/"] = answer(png())
    encoded = base64.urlsafe_b64encode(b"gs://bucket/a.png").decode()
    source().read(f"http://labels.example.org/tasks/1000/presign/?fileuri={encoded}", 7)
    assert fake_label_studio.paths() == [f"/tasks/7/resolve/?fileuri={encoded.replace('=', '%3D')}"]


def test_a_cloud_that_label_studio_does_not_know_says_what_to_do(source: Make) -> None:
    with pytest.raises(ImageUnreadable, match=r"Add a cloud storage.*no credentials for S3") as caught:
        source().read("s3://bucket/a.png", 7)
    assert caught.value.reason == "not_found"


@pytest.fixture
def aws_keys(source: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for S3 on this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")


@pytest.mark.usefixtures("aws_keys")
def test_s3_is_read_directly_where_this_machine_has_credentials(
    source: Make, fake_label_studio: Site, site: Site
) -> None:
    site.answers["/bucket/a%20b%3F.png"] = answer(png())
    assert source(s3_endpoint_url=site.url).read("s3://bucket/a b?.png", 7) == png()
    assert fake_label_studio.asked == []
    assert "very-secret" not in str(site.asked)


@pytest.mark.usefixtures("aws_keys")
def test_s3_is_signed_again_for_the_region_that_it_names(source: Make, site: Site) -> None:
    def regional(request: BaseHTTPRequestHandler) -> None:
        if "eu-central-1" in request.path:
            answer(png())(request)
        else:
            answer(status=301, x_amz_bucket_region="eu-central-1", Location="http://elsewhere.example.org/")(request)

    site.answers["/bucket/a.png"] = regional
    assert source(s3_endpoint_url=site.url).read("s3://bucket/a.png", 7) == png()
    assert len(site.asked) == 2


@pytest.mark.usefixtures("aws_keys")
def test_s3_that_refuses_this_machine_is_asked_for_through_label_studio(
    source: Make, fake_label_studio: Site, site: Site
) -> None:
    site.answers["/bucket/a.png"] = answer(b"<Error>AccessDenied</Error>", 403)
    fake_label_studio.answers["/tasks/7/resolve/"] = answer(png())
    assert source(s3_endpoint_url=site.url).read("s3://bucket/a.png", 7) == png()


@pytest.mark.usefixtures("aws_keys")
def test_s3_that_may_work_later_is_temporary(source: Make, site: Site) -> None:
    site.answers["/bucket/a.png"] = answer(b"<Error>SlowDown</Error>", 503)
    with pytest.raises(ImageUnreadable) as caught:
        source(s3_endpoint_url=site.url).read("s3://bucket/a.png", 7)
    assert caught.value.temporary


@pytest.mark.usefixtures("aws_keys")
@pytest.mark.parametrize("address", ["s3://", "s3://bucket", "s3:///key", "s3://@evil.example.org/a", "s3://a#b/c"])
def test_what_is_no_bucket_is_not_asked_for(address: str, source: Make, site: Site) -> None:
    assert reason(source(s3_endpoint_url=site.url), address) == "not_found"
    assert site.asked == []


# Decoding


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_usual_formats_are_decoded_whole(format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(file, format)
    image = decode(file.getvalue(), 200)
    assert image.size == (20, 10)
    assert image.format == format
    assert np.abs(np.asarray(image.convert("RGB"), int) - (255, 0, 0)).max() < 5


def test_exif_and_depth_are_left_as_they_are() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(file, "JPEG", exif=exif)
    assert decode(file.getvalue(), 200).size == (20, 10)
    assert decode(file.getvalue(), 200).getexif()[0x0112] == 6
    file = io.BytesIO()
    Image.new("I;16", (2, 2), 40_000).save(file, "PNG")
    assert decode(file.getvalue(), 4).getpixel((0, 0)) == 40_000


def test_of_a_moving_picture_the_first_frame_is_taken() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    assert decode(file.getvalue(), 16).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_file_that_ends_too_early_is_refused(format: str, kept: float) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, format)
    whole = file.getvalue()
    with pytest.raises(ImageUnreadable) as caught:
        decode(whole[: int(len(whole) * kept)], 1 << 20)
    assert caught.value.reason in {"truncated", "not_an_image"}


@pytest.mark.parametrize("chunk", [b"IHDR", b"IDAT"])
def test_a_png_with_a_wrong_checksum_is_refused(chunk: bytes) -> None:
    damaged = bytearray(png())
    start = damaged.index(chunk)
    length = int.from_bytes(damaged[start - 4 : start], "big")
    damaged[start + 4 + length] ^= 1
    with pytest.raises(ImageUnreadable) as caught:
        decode(bytes(damaged), 1000)
    assert caught.value.reason == "not_an_image"


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = bytearray(png())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageUnreadable) as caught:
        decode(bytes(bomb), 100_000_000)
    assert caught.value.reason == "too_many_pixels"
    with pytest.raises(ImageUnreadable, match="8 x 6 pixels, more than 47"):
        decode(png(), 47)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>Please log in</html>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"P6 1 1 255 abc",
    ],
    ids=["nothing", "html", "svg", "eps", "ppm"],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        decode(data, 1000)
    assert caught.value.reason == "not_an_image"


def samples() -> Mapping[str, bytes]:
    made = {}
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        Image.effect_noise((16, 16), 50).save(file, format)
        made[format] = file.getvalue()
    return made


SAMPLES = samples()


@given(
    format=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=12),
    length=st.integers(0, 2000),
)
@settings(deadline=None, max_examples=600)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_are_decoded_or_refused(format: str, changes: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(SAMPLES[format])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with contextlib.suppress(ImageUnreadable):
        image = decode(bytes(damaged[: max(1, length)]), 10_000)
        assert image.size[0] * image.size[1] <= 10_000


def test_the_content_is_known_by_its_hash() -> None:
    assert content_hash(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Real servers


@pytest.fixture
def label_studio_client(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    """A client of the real Label Studio."""
    with LabelStudio(label_studio.url, label_studio.api_key) as client:
        yield client


CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<Choices name="c" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices></View>'
)


def project(client: LabelStudio, title: str) -> int:
    return client.create_project(title, CONFIG).facts.id


@pytest.mark.servers
def test_uploads_of_a_real_label_studio(label_studio_client: LabelStudio, source: Make) -> None:
    number = project(label_studio_client, "uploads")
    colors = ["red", "green", "blue"]
    label_studio_client.upload(number, [(f"{color} ü.png", png(color)) for color in colors])
    wanted = [(task["data"]["image"], task["id"]) for task in label_studio_client.tasks(number)]
    with ImageSource(settings_of(), label_studio_client) as real:
        assert [real.read(*each) for each in wanted] == [png(color) for color in colors]
        with pytest.raises(ImageUnreadable):
            real.read("/data/upload/1/no-such-file.png", 1)
    refused = LabelStudio(label_studio_client.url, "f" * 40)
    refused.close()
    with ImageSource(settings_of(), refused) as stranger:
        assert reason(stranger, *wanted[0]) == "not_authorized"


@pytest.mark.servers
def test_local_files_of_a_real_label_studio(
    label_studio: LabelStudioServer, label_studio_client: LabelStudio, source: Make
) -> None:
    folder = label_studio.files / "images-test"
    folder.mkdir()
    (folder / "a b.png").write_bytes(png("green"))
    number = project(label_studio_client, "local files")
    storage = {"project": number, "path": str(folder), "use_blob_urls": True, "regex_filter": ".*png"}
    created = post(label_studio, "/api/storages/localfiles/", storage)
    post(label_studio, f"/api/storages/localfiles/{created['id']}/sync", {})
    [task] = label_studio_client.tasks(number)
    for files in (None, label_studio.files):
        with ImageSource(settings_of(label_studio_files=files), label_studio_client) as real:
            assert real.read(task["data"]["image"], task["id"]) == png("green")


@pytest.fixture
def bucket(s3_server: S3) -> Any:
    """A client of a real S3 server whose bucket `images` holds one image."""
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.url,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name="us-east-1",
    )
    client.put_object(Bucket="images", Key="cats/a b.png", Body=png("blue"), ContentType="image/png")
    yield client
    client.close()


@pytest.mark.servers
def test_a_real_s3_server_is_read_directly(
    s3_server: S3, bucket: Any, source: Make, fake_label_studio: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    direct = source(s3_endpoint_url=s3_server.url)
    assert direct.read("s3://images/cats/a b.png", 1) == png("blue")
    assert fake_label_studio.asked == []
    assert reason(direct, "s3://images/cats/none.png") == "not_found"


@pytest.mark.servers
@pytest.mark.parametrize("presign", [True, False], ids=["redirected", "proxied"])
def test_s3_through_the_resolver_of_a_real_label_studio(
    presign: bool,
    label_studio: LabelStudioServer,
    label_studio_client: LabelStudio,
    s3_server: S3,
    bucket: Any,
    source: Make,
) -> None:
    number = project(label_studio_client, f"s3 presign {presign}")
    storage = {
        "project": number,
        "bucket": "images",
        "prefix": "cats",
        "use_blob_urls": True,
        "presign": presign,
        "aws_access_key_id": s3_server.access_key,
        "aws_secret_access_key": s3_server.secret_key,
        "s3_endpoint": s3_server.url,
        "region_name": "us-east-1",
    }
    created = post(label_studio, "/api/storages/s3/", storage)
    post(label_studio, f"/api/storages/s3/{created['id']}/sync", {})
    [task] = label_studio_client.tasks(number)
    with ImageSource(settings_of(s3_endpoint_url=s3_server.url), label_studio_client) as real:
        assert real.read("s3://images/cats/a b.png", task["id"]) == png("blue")
        assert real.read(task["data"]["image"], task["id"]) == png("blue")
        assert reason(real, "s3://other/a.png", task["id"]) == "not_found"
    with ImageSource(settings_of(), label_studio_client) as careful:
        if presign:  # the redirect leads to 127.0.0.1, which nothing in the settings vouches for
            assert reason(careful, "s3://images/cats/a b.png", task["id"]) == "private_address"
        else:
            assert careful.read("s3://images/cats/a b.png", task["id"]) == png("blue")


def post(server: LabelStudioServer, path: str, body: object) -> dict[str, Any]:
    response = httpx.post(
        server.url + path, json=body, headers={"Authorization": f"Token {server.api_key}"}, timeout=60, trust_env=False
    )
    assert response.status_code < 300, response.text
    told: dict[str, Any] = response.json()
    return told


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Let every name stand for the first address, then for the next; return the names asked for."""
    asked: list[str] = []
    truly = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **named: Any) -> list[tuple[Any, ...]]:
        if host in addresses:
            return truly(host, port, *args, **named)
        asked.append(host)
        address = addresses[min(len(asked), len(addresses)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked
