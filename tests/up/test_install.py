"""Installing: when it is done already, and when it has to be done anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.up import install


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout whose environment stands, as far as installing looks."""
    monkeypatch.setattr(install, "REPOSITORY", tmp_path)
    monkeypatch.setattr(install, "TANDEM_VENV", tmp_path / ".venv")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "pip").write_text(f"#!{tmp_path}/.venv/bin/python\n")
    (tmp_path / ".venv" / "installed").write_text(install.wanted_by_tandem())
    return tmp_path


def test_what_stands_is_not_installed_again(checkout: Path) -> None:
    assert install.tandem_installed()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_other_requirements_are_installed(checkout: Path, name: str) -> None:
    (checkout / name).write_text("something else")
    assert not install.tandem_installed()


def test_a_checkout_that_was_moved_is_installed_anew(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "pip").write_text("#!/elsewhere/.venv/bin/python\n")
    assert install.tandem_moved()
    assert not install.tandem_installed()


def test_half_a_label_studio_is_none(tmp_path: Path) -> None:
    program = install.label_studio_program(tmp_path)
    program.parent.mkdir(parents=True)
    program.touch()
    assert not install.label_studio_installed(tmp_path)
    record = f"lib/python3.11/site-packages/label_studio-{install.LABEL_STUDIO_VERSION}.dist-info/RECORD"
    (program.parents[1] / record).parent.mkdir(parents=True)
    (program.parents[1] / record).touch()
    assert install.label_studio_installed(tmp_path)


def test_pip_that_fails_is_told_in_a_sentence_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(install.ServerError, match=rf"The thing could not be installed: .* See {tmp_path}/log"):
        install.pip_install("The thing", tmp_path / "venv", ["--no-index", "no-such-package-of-ours"], tmp_path / "log")
