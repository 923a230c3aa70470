"""`tandem up`: everything on this machine with one command, and nothing left of it afterwards but the state folder.

It starts Redis, MLflow, Label Studio and Tandem's own processes, each when what it needs is ready, makes a project,
connects it, imports the images, and waits. All it remembers is in the state folder, so that a second start goes on.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import redis
from pydantic import SecretStr
from rich.console import Console

from backend.connect import connect
from backend.label_config import UnusableConfig, parse_label_config
from backend.labelstudio import LabelStudio, LabelStudioError
from backend.settings import Settings
from backend.up import demo, install, leash, servers
from backend.up.install import HOST, ServerError
from backend.up.progress import Steps
from backend.up.runner import Runner, write_private
from backend.up.servers import Server

OURS = ("web", "learn", "chores")
LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1", "0.0.0.0"}  # noqa: S104 - recognized, not bound
WATCH_SECONDS = 1.0
PORT_SECONDS = 5.0  # for what is just ending to let go of its port
LONGEST_TITLE = 50  # Label Studio's limit; its shortest is 3
PASSWORD_BYTES = 8


class AlreadyRunning(ServerError):  # noqa: N818 - reads as the sentence it carries
    """Another `tandem up` has this state folder."""


@dataclass(frozen=True)
class Places:
    """Where things are in the state folder."""

    state: Path

    @property
    def logs(self) -> Path:
        """A log for each program."""
        return self.state / "logs"

    @property
    def secrets(self) -> Path:
        """What was made up for this machine: passwords and keys, each in a file that only this user reads."""
        return self.state / "secrets"

    @property
    def memory(self) -> Path:
        """What the next start goes on from."""
        return self.state / "up.json"

    @property
    def variables(self) -> Path:
        """The environment of Tandem's processes, for other commands: ``set -a; . FILE``."""
        return self.state / "up.env"


@dataclass(frozen=True)
class Setup:
    """What runs, with which settings.

    Attributes
    ----------
    settings
        In force for Tandem's processes: with the addresses and secrets of what is started here.
    programs
        All that is started, by what must be ready first.
    password
        Of the Label Studio started here; empty where one is there already.
    """

    settings: Settings
    programs: tuple[Server, ...]
    password: str


def up(settings: Settings, images: Path | None = None, mlflow_port: int = 5000, console: Console | None = None) -> int:
    """Start everything, and return when a signal (Ctrl-C, SIGTERM, SIGHUP) has ended it.

    Parameters
    ----------
    settings
        Tandem's. A Redis, an MLflow, a Label Studio with its key that are set are used; where none is, one is started.
    images
        Folder of images for the project; without one, the folder of the last start, or at first the demo's.
    mlflow_port
        Port of the MLflow that is started.
    console
        Where to print.

    Returns
    -------
    int
        Exit code: 0 when it was ended by a signal, 1 when something was in the way, which is then printed.
    """
    places = Places(settings.state.resolve())
    console = console or Console()
    try:
        with ended_by_signals(), Steps(console) as steps:
            _up(settings, images, mlflow_port, places, steps)
    except KeyboardInterrupt:
        console.print("Everything that was started here has ended; the next start goes on from here.")
        return 0
    except AlreadyRunning as error:
        return _tell(console, str(error))
    except (ServerError, LabelStudioError, UnusableConfig, NotADirectoryError) as error:
        return _tell(console, f"{error}\nLogs are in {places.logs}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _tell(console, f"The disk of {places.state} is full: free some space and start again.")
    return 0


def _tell(console: Console, sentence: str) -> int:
    console.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1


def _up(settings: Settings, images: Path | None, mlflow_port: int, places: Places, steps: Steps) -> None:
    try:
        places.state.mkdir(parents=True, exist_ok=True)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ServerError(
            f"{places.state} can not be made: put the state elsewhere with TANDEM_STATE=folder"
        ) from error
    if not leash.hold(str(places.state / "up.lock")):
        raise AlreadyRunning(
            f"Tandem is already running from {places.state}: use it, or end it with Ctrl-C where it was started"
            " (another folder, TANDEM_STATE=folder, with other ports would be a second Tandem)"
        )
    folder = image_folder(images, recall(places).get("folder"))
    setup = plan(settings, places, mlflow_port)
    refuse_taken_ports(ports_needed(settings, setup, mlflow_port))
    if setup.password:
        prepare_label_studio(places, steps)
    write_private(places.variables, shell_assignments(overrides(setup.settings)))

    with Runner(places.state / "run", places.logs, setup.programs) as runner:
        try:
            project = start_all(runner, setup, places, folder, steps)
            say_what_to_do(setup, places, project, folder, steps)
            watch(runner, steps)
        finally:
            steps.say("Ending what was started here ...")
            runner.stop(*OURS)


def image_folder(asked: Path | None, remembered: object) -> Path:
    """Return the folder of images for this start.

    Raises
    ------
    NotADirectoryError
        When it is not there.
    """
    if asked is not None:
        folder = asked.expanduser().resolve()
    elif isinstance(remembered, str) and Path(remembered).is_dir():
        folder = Path(remembered)
    else:
        folder = demo.DEMO_FOLDER
    if not folder.is_dir():
        raise NotADirectoryError(f"There is no folder {folder}: give one with images, make run IMAGES=folder")
    return folder


def plan(settings: Settings, places: Places, mlflow_port: int) -> Setup:
    """Return what runs: what is set is used, what is not is started.

    Raises
    ------
    ServerError
        When a Label Studio elsewhere is named without its key.
    """
    programs: list[Server] = []
    changes: dict[str, object] = {"state": places.state}
    if not settings.redis_url:
        programs.append(servers.valkey(places.state / "valkey", servers.socket_path(places.state, "redis.sock")))
        changes["redis_url"] = programs[-1].address
    if not settings.mlflow_tracking_uri:
        programs.append(servers.mlflow(places.state / "mlflow", mlflow_port))
        changes["mlflow_tracking_uri"] = programs[-1].address

    token = servers.secret_file(places.secrets / "label-studio-token")
    key = settings.label_studio_api_key.get_secret_value()
    password = ""
    if key in ("", token):
        address = urlsplit(settings.label_studio_url)
        if address.hostname not in LOCAL_HOSTS:
            raise ServerError(
                f"To use the Label Studio at {settings.label_studio_url}, set LABEL_STUDIO_API_KEY to a key of it"
                " (Account & Settings, Personal Access Token)"
            )
        password = servers.secret_file(places.secrets / "label-studio-password", PASSWORD_BYTES)
        folder, port = places.state / "label-studio", address.port or 80
        files = settings.label_studio_files
        programs.append(servers.label_studio(places.state, folder, port, password, token, files))
        changes |= {"label_studio_url": programs[-1].address, "label_studio_api_key": SecretStr(token)}
    if not settings.secret.get_secret_value():
        changes["secret"] = SecretStr(servers.secret_file(places.secrets / "secret"))

    settings = settings.model_copy(update=changes)
    return Setup(settings, (*programs, *tandem_programs(settings)), password)


def tandem_programs(settings: Settings) -> tuple[Server, Server, Server]:
    """Return Tandem's own processes."""
    tandem = [sys.executable, str(Path(sys.executable).with_name("tandem"))]
    known = {
        **os.environ,
        "MALLOC_ARENA_MAX": "2",  # else each thread keeps memory of its own
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads of one process must not spin on the cores of the others
        **overrides(settings),
        "PYTHONUNBUFFERED": "1",
    }
    host = HOST if settings.web_host == "0.0.0.0" else settings.web_host  # noqa: S104 - asked, not bound
    ready = f"http://{host}:{settings.web_port}/ready"
    web = Server("web", [*tandem, "web"], known, settings.web_url, lambda: servers.http_unready(ready), 180.0)
    learn = Server("learn", [*tandem, "worker", "learn"], known, "", lambda: worker_unready(settings, "learn"), 180.0)
    chores = Server(
        "chores", [*tandem, "worker", "chores"], known, "", lambda: worker_unready(settings, "chores"), 180.0
    )
    return web, learn, chores


def overrides(settings: Settings) -> dict[str, str]:
    """Return the environment that gives another process of Tandem these settings, where they are not the defaults.

    Examples
    --------
    >>> overrides(Settings(_env_file=None, web_port=9091))["TANDEM_WEB_PORT"]
    '9091'
    """
    values = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    values |= {"redis_url": settings.redis, "mlflow_tracking_uri": settings.mlflow}
    return {f"TANDEM_{name.upper()}": _as_text(value) for name, value in values.items() if value is not None}


def _as_text(value: object) -> str:
    """Return a setting as the environment has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, list) else str(value)


def shell_assignments(variables: Mapping[str, str]) -> str:
    r"""Return lines that a shell reads.

    Examples
    --------
    >>> shell_assignments({"A": "two words"})
    "A='two words'\n"
    """
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


def worker_unready(settings: Settings, queue: str) -> str:
    """Ask Redis whether a worker that is alive listens on the queue; RQ enters it when its encoder is loaded."""
    try:
        with redis.Redis.from_url(settings.redis, socket_timeout=5) as client:
            for worker in client.smembers(f"rq:workers:{queue}"):
                pid = client.hget(worker.decode(), "pid")
                if pid and Path(f"/proc/{int(pid)}").exists() | (sys.platform != "linux"):
                    return ""
    except redis.RedisError as error:
        return f"Redis does not answer ({error})"
    return "its worker has not begun"


def ports_needed(settings: Settings, setup: Setup, mlflow_port: int) -> list[tuple[str, str, int, str]]:
    """Return what will listen where: name, host, port, and the setting that changes the port."""
    needed = [("Tandem", settings.web_host, settings.web_port, f"TANDEM_WEB_PORT={settings.web_port + 1}")]
    started = {server.name for server in setup.programs}
    if "label-studio" in started:
        port = urlsplit(setup.settings.label_studio_url).port or 80
        needed.append(("Label Studio", HOST, port, f"TANDEM_LABEL_STUDIO_URL=http://{HOST}:{port + 1}"))
    if "mlflow" in started:
        needed.append(("MLflow", HOST, mlflow_port, f"MLFLOW_PORT={mlflow_port + 1}"))
    return needed


def refuse_taken_ports(needed: list[tuple[str, str, int, str]]) -> None:
    """Return if all the ports are free.

    Raises
    ------
    ServerError
        With a sentence for each that is not.
    """
    sentences = []
    deadline = time.monotonic() + PORT_SECONDS
    for name, host, port, setting in needed:
        while (number := taken(host, port)) == errno.EADDRINUSE and time.monotonic() < deadline:
            time.sleep(0.1)
        if number:
            reason = (
                "is taken by another program" if number == errno.EADDRINUSE else f"is refused ({os.strerror(number)})"
            )
            sentences.append(f"Port {port}, for {name}, {reason}: end that, or choose another, for example {setting}")
    if sentences:
        raise ServerError("\n".join(sentences))


def taken(host: str, port: int) -> int:
    """Return 0 if this process could listen on the port, else the number of the error."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def prepare_label_studio(places: Places, steps: Steps) -> None:
    """Install Label Studio and make its database, where they are not there yet."""
    if not install.label_studio_installed(places.state):
        step = steps.begin(f"Installing Label Studio {install.LABEL_STUDIO_VERSION}", "1 GB, a minute or two")
        install.install_label_studio(places.state, places.logs / "install-label-studio.log")
        step.done()
    if not (places.state / "label-studio").exists():
        step = steps.begin("Making Label Studio's database", "half a minute the first time")
        install.migrate_label_studio(places.state, places.state / "label-studio")
        step.done()


def start_all(runner: Runner, setup: Setup, places: Places, folder: Path, steps: Steps) -> int:
    """Start the programs, each when what it needs is ready; return the project, connected and with its images."""
    others = [name for name in runner.servers if name not in OURS]
    begun = {}
    for name in others:
        begun[name] = steps.begin(f"Starting {name}")
        runner.start(name)
    migrate(setup.settings, places)
    if "valkey" in begun:
        runner.wait_ready("valkey")
        begun.pop("valkey").done("ready")
    begun["web"] = steps.begin("Starting web", "it loads the encoder; the first time it also makes it fast")
    runner.start("web")
    looking = steps.begin(f"Looking through {folder}")
    found = demo.plan_import(folder)
    looking.done(describe(found))
    for name in ("label-studio", "web"):
        if name in begun:
            runner.wait_ready(name)
            begun.pop(name).done("ready")
    for name in ("learn", "chores"):
        begun[name] = steps.begin(f"Starting {name}")
        runner.start(name)

    with label_studio_client(setup.settings) as client:
        step = steps.begin("Connecting the project")
        project = take_project(client, setup.settings, places, folder, found.classes, steps)
        step.done(f"project {project}")
        step = steps.begin("Importing images")
        record = places.state / "imports" / f"project-{project}.csv"
        count = demo.import_images(client, project, found, record, step.advance)
        step.done(f"{count} new" if count else "none new")
    for name, step in begun.items():
        runner.wait_ready(name)
        step.done("ready")
    return project


def migrate(settings: Settings, places: Places) -> None:
    """Bring the database to the newest schema, before any process uses it."""
    tandem = [sys.executable, str(Path(sys.executable).with_name("tandem"))]
    log = places.logs / "migrate.log"
    with log.open("ab") as output:
        known = {**os.environ, **overrides(settings)}
        done = subprocess.run([*tandem, "migrate"], env=known, stdout=output, stderr=output, check=False)
    if done.returncode:
        raise ServerError(f"the database could not be made ready. {log} ends with:\n{install.tail(log)}")


def label_studio_client(settings: Settings) -> LabelStudio:
    """Return Label Studio's client."""
    key = settings.label_studio_api_key.get_secret_value()
    return LabelStudio(settings.label_studio_url, key, settings.label_studio_timeout)


def describe(found: demo.FolderPlan) -> str:
    """Return in words what a folder holds.

    Examples
    --------
    >>> describe(demo.FolderPlan((), ("cat", "dog"), 2, (Path("notes.txt"),)))
    '0 images of 2 classes, 2 repeated, 1 no readable image'
    """
    words = [f"{len(found.images)} images" + (f" of {len(found.classes)} classes" if found.classes else "")]
    if found.repeats:
        words.append(f"{found.repeats} repeated")
    if found.skipped:
        words.append(f"{len(found.skipped)} no readable image")
    return ", ".join(words)


def take_project(
    client: LabelStudio, settings: Settings, places: Places, folder: Path, classes: tuple[str, ...], steps: Steps
) -> int:
    """Return the connected project of this folder: that of an earlier start, or a new one if it is gone."""
    memory = recall(places)
    projects = memory.get("projects")
    known = dict(projects) if isinstance(projects, dict) else {}
    place = f"{settings.label_studio_url} {folder}"
    project = known.get(place)
    if isinstance(project, int) and has_project(client, project):
        lacking = set(classes) - set(parse_label_config(client.project(project).facts.label_config).classes)
        if lacking:
            steps.say(
                f"The project has no class {', '.join(sorted(lacking))} yet: add it in the project's labeling interface"
            )
    else:
        project = client.create_project(title(folder), demo.label_config(classes)).facts.id
    known[place] = project
    remember(places, {**memory, "folder": str(folder), "projects": known})
    for note in connect(settings, client, project=project).notes:
        steps.say(note)
    return project


def has_project(client: LabelStudio, project: int) -> bool:
    """Return whether Label Studio still has the project."""
    try:
        client.project(project)
    except LabelStudioError as error:
        if error.status == 404:
            return False
        raise
    return True


def title(folder: Path) -> str:
    """Return the title of a new project for this folder.

    Examples
    --------
    >>> title(Path("pets"))
    'Images of pets'
    """
    return "Expressions (demo)" if folder == demo.DEMO_FOLDER else f"Images of {folder.name}"[:LONGEST_TITLE]


def recall(places: Places) -> dict[str, object]:
    """Return what an earlier start remembered; nothing if there was none or it can't be read."""
    try:
        memory = json.loads(places.memory.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def remember(places: Places, memory: Mapping[str, object]) -> None:
    """Write for the next start, whole or not at all."""
    writing = places.memory.with_suffix(".writing")
    writing.write_text(json.dumps(memory, indent=2) + "\n", encoding="utf-8")
    writing.replace(places.memory)


def say_what_to_do(setup: Setup, places: Places, project: int, folder: Path, steps: Steps) -> None:
    """Print the addresses, the login and what to do next."""
    settings = setup.settings
    url = settings.label_studio_url.rstrip("/")
    login = f"{servers.LABEL_STUDIO_USER}   password  {setup.password}" if setup.password else "yours"
    versions = settings.mlflow if settings.mlflow.startswith("http") else f"in {settings.mlflow}"
    for line in (
        "",
        "Tandem is running.",
        f"  Label     {url}/projects/{project}/data   press 'Label All Tasks'",
        f"  Login     {login}",
        f"  Versions  {versions}   one run for each label learned",
        f"  Pages     {settings.web_url}/ui/   any name, password  {settings.secret.get_secret_value()}",
        f"  Images    {folder}   put more there and start again, or: make run IMAGES=folder",
        f"  Logs      {places.logs}",
        "Each label is learned as it is made; the order of tasks and their scores follow. Ctrl-C ends everything.",
    ):
        steps.say(line)


def watch(runner: Runner, steps: Steps) -> None:
    """Say when a program ended and was started again, or was given up; runs until a signal comes."""
    seen = runner.states()
    while True:
        time.sleep(WATCH_SECONDS)
        states = runner.states()
        for name, now in states.items():
            before = seen[name]
            if now.state == "FATAL" and before.state != "FATAL":
                steps.say(f"{name} keeps ending and was given up: see {runner.log(name)}, then start Tandem again")
            elif now.pid != before.pid and now.pid:
                steps.say(f"{name} ended and was started again: see {runner.log(name)}")
        seen = {name: now if now.pid or now.state == "FATAL" else seen[name] for name, now in states.items()}


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into KeyboardInterrupt; what follows is under way already."""

    def end(number: int, frame: FrameType | None) -> None:
        for one in ends:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    # What is ignored stays so: nohup's SIGHUP, a background job's SIGINT.
    ends = [one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
