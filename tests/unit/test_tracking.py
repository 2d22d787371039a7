"""A W&B run read back from its offline folder: one id, the configuration, the figures, how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from distillkit import config, tracking
from distillkit.errors import NumericalError, Preempted
from distillkit.redaction import without_secrets
from distillkit.tracking import tracked
from tests.faults.harness import CHECKOUT
from tests.faults.wandb_records import Session, sessions

KEY = "k" * 40
SECRET = "hunter2hunter2"


@pytest.fixture
def settled(tmp_path: Path) -> dict[str, Any]:
    """An offline run's configuration, with a secret where a careless user might put one."""
    return compose(tmp_path / "runs" / "one", "logger=wandb")


def compose(folder: Path, *overrides: str) -> dict[str, Any]:
    folder.mkdir(parents=True)
    words = [f"run.dir={folder}", "teacher.path=T", "data.path=D", f"+data.api_token={SECRET}", *overrides]
    return config.settle(*config.load("train", words))


def log(
    cfg: dict[str, Any], error: BaseException | None = None, after: int = 0, kind: type[WandbLogger] = WandbLogger
) -> Session:
    """Three optimizer steps after step `after` of a run that ends with `error`, and the session they left."""
    folder, node = Path(cfg["run"]["dir"]), dict(cfg["logger"]["wandb"])
    logger = kind(**{key: value for key, value in node.items() if key != "_target_"})
    expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
    with expected, tracked([logger], folder, cfg, after):
        for step in range(after + 1, after + 4):
            logger.log_metrics({"train/loss": step / 3}, step)
        if error is not None:
            raise error
    return sessions(folder)[-1]


def test_session_holds_configuration_figures_and_end_when_finished(settled: dict[str, Any], tmp_path: Path) -> None:
    figures = {"student": {"top1": 0.25, "mlm_loss": 3.5}}
    (tmp_path / "runs" / "one" / "evaluation.json").write_text(json.dumps(figures))
    session = log(settled)
    assert session.id == settled["run"]["id"]
    assert session.name == "runs/one"
    assert session.project == "distillkit"
    assert session.history("train/loss") == {1: 1 / 3, 2: 2 / 3, 3: 1.0}
    assert session.summary["evaluation"] == figures
    assert session.exit_code == 0
    assert session.config["loss"] == settled["loss"]
    assert session.config["optimizer"] == settled["optimizer"]


def test_session_holds_no_secret_when_configuration_command_line_and_environment_do(
    settled: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settled["data"]["api_token"] == SECRET
    monkeypatch.setattr(sys, "argv", ["distillkit", "train", f"data.api_token={SECRET}"])
    monkeypatch.setenv("WANDB_API_KEY", SECRET * 3)
    session = log(settled)
    written = [path for path in session.folder.parent.rglob("*") if path.is_file()]
    assert len(written) > 3
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


def test_nothing_is_written_outside_the_folder_when_a_run_is_logged(
    settled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    before = set(Path.cwd().iterdir())
    log(settled)
    assert not (tmp_path / "home").exists()
    assert set(Path.cwd().iterdir()) == before
    assert [path.name for path in Path(settled["run"]["dir"]).iterdir()] == ["wandb"]


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        *((key, True) for key in ("tokenizer", "batch_tokens", "mask_token_id", "key", "path", "patience")),
        *((key, True) for key in ("mask_token", "PAD_TOKEN", "eos_token", "max_tokens", "author", "keyword")),
        *((key, False) for key in ("token", "hf_token", "HF_TOKEN", "password", "api_key", "apikey", "client_secret")),
        *((key, False) for key in ("secret_access_key", "credentials", "passwd", "API_KEY", "private_key")),
        *((key, False) for key in ("auth", "http_auth", "Authorization", "bearer", "pwd", "wandb_key", "tokens")),
        *((key, False) for key in ("hf_tokens", "oauth", "X-API-Key", "accessToken", "passphrase")),
    ],
)
def test_secret_is_known_by_its_key_when_the_configuration_is_sent(key: str, kept: bool) -> None:
    assert without_secrets({"a": [{key: 1, "b": 2}]}) == {"a": [{key: 1, "b": 2} if kept else {"b": 2}]}


@pytest.mark.parametrize(
    ("error", "code"),
    [(NumericalError("nan"), 3), (ValueError("bug"), 1), (KeyboardInterrupt(), 1), (Preempted("stopped"), 143)],
    ids=["numerical", "unforeseen", "interrupted", "preempted"],
)
def test_session_says_how_the_run_ended_when_it_failed(
    settled: dict[str, Any], error: BaseException, code: int
) -> None:
    session = log(settled, error)
    assert session.exit_code == code
    assert session.preempting == isinstance(error, Preempted)


def test_runs_have_ids_of_their_own_when_one_process_makes_two(settled: dict[str, Any], tmp_path: Path) -> None:
    environment = dict(os.environ)
    other = compose(tmp_path / "runs" / "two", "logger=wandb")
    ids = [log(settled).id, log(other).id]
    assert ids == [settled["run"]["id"], other["run"]["id"]]
    assert ids[0] != ids[1]
    assert {k: v for k, v in os.environ.items() if k.startswith("WANDB_")} == {
        k: v for k, v in environment.items() if k.startswith("WANDB_")
    }


def test_later_session_has_the_id_and_the_earlier_figures_when_a_run_is_continued(settled: dict[str, Any]) -> None:
    folder = Path(settled["run"]["dir"])
    log(settled, ValueError("stopped"))
    (folder / "metrics.csv").write_text("step,train/loss,lr\n1,0.5,\n2,,0.25\n3,0.125,\n")
    time.sleep(1)  # W&B names its folders by the second
    log(settled, after=2)
    first, second = sessions(folder)
    assert first.id == second.id
    assert second.history("train/loss") == {1: 0.5, 3: 1.0, 4: 4 / 3, 5: 5 / 3}
    assert second.history("lr") == {2: 0.25}
    assert [row["trainer/global_step"] for row in second.rows] == [1, 2, 3, 4, 5]
    assert [first.exit_code, second.exit_code] == [1, 0]


def test_nothing_is_missed_when_a_run_is_continued_that_had_logged_nothing(
    settled: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    session = log(settled, after=3)
    assert sorted(session.history("train/loss")) == [4, 5, 6]
    assert capfd.readouterr().err == ""


def test_run_goes_on_with_one_warning_when_the_service_dies(
    settled: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, node = Path(settled["run"]["dir"]), dict(settled["logger"]["wandb"])
    logger = WandbLogger(**{key: value for key, value in node.items() if key != "_target_"})
    (folder / "evaluation.json").write_text("{}")
    with tracked([logger], folder, settled, 0):
        logger.log_metrics({"train/loss": 1.0}, 1)
        for service in services():
            os.kill(service, signal.SIGKILL)
        time.sleep(0.5)  # until the connection is known to be lost
        for step in (2, 3):
            logger.log_metrics({"train/loss": 1.0}, step)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: W&B: not everything was sent")
    other = compose(folder.parent / "other", "logger=wandb")
    assert log(other).exit_code == 0


def test_error_of_the_run_is_what_is_raised_when_the_service_is_dead_too(settled: dict[str, Any]) -> None:
    folder, node = Path(settled["run"]["dir"]), dict(settled["logger"]["wandb"])
    logger = WandbLogger(**{key: value for key, value in node.items() if key != "_target_"})
    with pytest.raises(Preempted, match="stopped"), tracked([logger], folder, settled, 0):
        for service in services():
            os.kill(service, signal.SIGKILL)
        time.sleep(0.5)
        raise Preempted("stopped")


def services() -> list[int]:
    """The pids of this process's wandb-core."""
    children = [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    found = [pid for pid in children if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert found
    return found


def test_report_is_attached_when_the_folder_has_one(settled: dict[str, Any]) -> None:
    folder = Path(settled["run"]["dir"])
    (folder / "figures").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "figures" / "losses.png")
    (folder / "report.html").write_text("<p>the report</p>")
    session = log(settled)
    assert session.last("figures/losses/_type") == "image-file"
    assert session.last("report/_type") == "html-file"
    (page,) = session.folder.glob("files/media/html/*.html")
    assert "the report" in page.read_text()


def test_run_completes_with_a_warning_when_a_figure_cannot_be_attached(
    settled: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    figures = Path(settled["run"]["dir"]) / "figures"
    figures.mkdir()
    (figures / "broken.png").write_text("not a picture")
    log(settled)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: W&B: ")


def test_wandb_is_not_imported_when_no_logger_uses_it() -> None:
    code = (
        "import sys; from pathlib import Path; from distillkit import tracking\n"
        "with tracking.tracked([], Path('unused'), {}, 0): assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)


# --- online ------------------------------------------------------------------------------------------------------


class _Refusing(BaseHTTPRequestHandler):
    """A W&B server that knows no key and notes what it is asked for."""

    asked: list[str]

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b'{"errors":[{"message":"user is not logged in"}],"data":{"viewer":null}}'
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def asked() -> list[str]:
    """What the server was asked for."""
    return []


@pytest.fixture
def refusing(asked: list[str]) -> Iterator[str]:
    """The address of a server that refuses every key."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Refusing", (_Refusing,), {"asked": asked}))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def as_a_user(folder: Path, address: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that does not ask for offline, with a server's address and a key or none."""
    monkeypatch.delenv("WANDB_MODE")
    for name, value in (("WANDB_BASE_URL", address), ("HOME", folder / "home"), ("NETRC", folder / "netrc")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)


class OwnLogger(WandbLogger):
    """A user's, with a _target_ of its own."""


@pytest.mark.parametrize("key", [None, KEY], ids=["no key", "a key"])
@pytest.mark.parametrize("kind", [WandbLogger, OwnLogger])
def test_nobody_is_contacted_when_the_logger_is_offline(
    kind: type[WandbLogger],
    key: str | None,
    refusing: str,
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    as_a_user(tmp_path, refusing, key, monkeypatch)
    cfg = compose(tmp_path / "run", "logger=wandb", f"logger.wandb._target_={kind.__module__}.{kind.__qualname__}")
    session = log(cfg, kind=kind)
    assert (session.folder.name.startswith("offline-run-"), session.exit_code) == (True, 0)
    assert session.name.endswith("/run")
    assert asked == []
    assert capfd.readouterr().err == ""
    assert "WANDB_MODE" not in os.environ


def fall_back(folder: Path, address: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An online run against an address, which has to end offline."""
    as_a_user(folder, address, key, monkeypatch)
    return log(compose(folder / "run", "logger=wandb_online"))


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "no API key in WANDB_API_KEY"), ("short", "40"), (KEY, "not logged in")]
)
def test_online_run_is_logged_offline_with_one_warning_when_the_key_is_no_good(
    key: str | None,
    reason: str,
    refusing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    session = fall_back(tmp_path, refusing, key, monkeypatch)
    assert session.folder.name.startswith("offline-run-")
    assert session.exit_code == 0
    assert session.history("train/loss") == {1: 1 / 3, 2: 2 / 3, 3: 1.0}
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: W&B: ")
    assert reason in line
    assert f"wandb sync {tmp_path / 'run'}/wandb/" in line


@pytest.mark.slow
@pytest.mark.ci
def test_online_run_is_logged_offline_within_30_seconds_when_the_server_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    session = fall_back(tmp_path, "http://127.0.0.1:9", KEY, monkeypatch)
    assert time.monotonic() - began < 30
    assert session.exit_code == 0
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_end_of_the_service_is_not_waited_for_when_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    never = Event()
    monkeypatch.setattr("wandb.teardown", never.wait)
    monkeypatch.setattr(tracking, "_TEARDOWN_SECONDS", 0.1)
    began = time.monotonic()
    tracking._teardown()
    assert time.monotonic() - began < 5
    never.set()
    monkeypatch.setattr("wandb.teardown", lambda: sys.exit(3))
    with pytest.raises(SystemExit):
        tracking._teardown()
