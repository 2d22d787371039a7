"""Models of the hub without a hub: from its cache, or one line at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit.errors import TeacherError
from distillkit.hub import hub_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_hub_folder_is_the_cached_one_when_the_hub_is_out_of_reach(cache: Path) -> None:
    snapshot = cache / "models--own--bert" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "models--own--bert" / "refs").mkdir()
    (cache / "models--own--bert" / "refs" / "main").write_text("abc")
    assert hub_folder("own/bert", key="teacher.path") == snapshot


@pytest.mark.timeout(15)
@pytest.mark.parametrize("offline", [True, False])
def test_hub_folder_says_so_at_once_when_the_hub_is_out_of_reach(
    offline: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    with pytest.raises(TeacherError, match=r"^teacher\.path=own/bert: no such folder, and the hub is out of reach;"):
        hub_folder("own/bert", key="teacher.path")
    assert capfd.readouterr() == ("", "")


def test_hub_folder_asks_for_the_spelling_when_it_is_no_name() -> None:
    with pytest.raises(TeacherError, match=r"neither a folder nor a model of the hub; .* fix: check the spelling"):
        hub_folder("own bert", key="teacher.path")


def test_hub_folder_says_why_when_the_download_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distillkit.hub.snapshot_download", fail)
    with pytest.raises(TeacherError, match=r"its download failed \(.*No space left on device\)"):
        hub_folder("own/bert", key="teacher.path")
