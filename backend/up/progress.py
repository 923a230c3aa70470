"""What a person sees while things start: a spinner and seconds for each step on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Steps:
    """Steps under way; several may be at the same time. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> Self:
        """Begin with no step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show no step any more."""
        self._progress.stop()

    def begin(self, text: str, hint: str = "") -> Step:
        """Begin a step; ``hint`` says how long it may take."""
        self._progress.start()
        return Step(self, text, hint)

    def end(self, task: TaskID) -> None:
        """Take the step off the screen, and rest when it was the last: nothing is drawn while all is quiet."""
        self._progress.remove_task(task)
        self._progress.refresh()
        if not self._progress.tasks:
            self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)


class Step:
    """A step from its beginning to `done`."""

    def __init__(self, steps: Steps, text: str, hint: str) -> None:
        self._steps = steps
        self._text = text
        self._shown = escape(f"{text} ({hint})" if hint else text)
        self._began = time.monotonic()
        self._task: TaskID = steps._progress.add_task(self._shown, total=None)
        if not steps.console.is_terminal:
            steps.console.print(f"{self._shown} ...", highlight=False, soft_wrap=True)

    def advance(self, done: int, of: int) -> None:
        """Show how far it is."""
        self._steps._progress.update(self._task, description=f"{self._shown}: {done} of {of}")

    def done(self, note: str = "") -> None:
        """End the step; ``note`` says what came of it."""
        self._steps.end(self._task)
        seconds = time.monotonic() - self._began
        self._steps.say(f"{self._text}: {note or 'done'} ({seconds:.1f} s)")
