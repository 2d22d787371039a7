"""distillkit export: folders equal to the run's weights, and uploads to a hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import ModelCard

from distillkit.hashing import weights_hash
from tests.faults.fixtures import Call, Reference, Start
from tests.faults.harness import Recipe, Run

TOKEN = "hf_" + "x" * 34


@pytest.fixture
def run(reference: Reference, tmp_path: Path) -> Run:
    """A finished run of 14 steps with the checkpoints 10 and 14, the test's own."""
    return Run(Path(shutil.copytree(reference(Recipe())().path, tmp_path / "run")))


def test_finished_student_gets_a_new_card_when_exported(run: Run, call: Call) -> None:
    before = weights_hash(run.path)
    result = call("export", str(run.path), "license=mit")
    assert (result.code, result.out) == (0, f"student: {run.path}/student\n")
    assert ModelCard.load(run.path / "student" / "README.md").data.license == "mit"
    assert weights_hash(run.path) == before


@pytest.mark.parametrize("unfinished", [False, True])
def test_last_checkpoint_is_the_finished_student_when_exported(run: Run, call: Call, unfinished: bool) -> None:
    if unfinished:
        events = (run.path / "events.jsonl").read_text().splitlines(keepends=True)
        (run.path / "events.jsonl").write_text("".join(line for line in events if "finish" not in line))
    output = run.path / "elsewhere"
    words = [f"output={output}"] if unfinished else [f"output={output}", "checkpoint=last"]
    assert call("export", str(run.path), *words).code == 0
    assert weights_hash(output) == weights_hash(run.path / "student")
    names = {path.name for path in (run.path / "student").iterdir()}
    assert {path.name for path in output.iterdir()} == names
    assert "Not measured" in (output / "README.md").read_text()


def test_earlier_checkpoint_has_its_own_weights_when_exported(run: Run, call: Call) -> None:
    first, last = run.checkpoints()[0], run.checkpoints()[-1]
    assert first != last
    result = call("export", str(run.path), f"checkpoint={first}")
    folder = run.path / "export" / run.checkpoint(first).name
    assert result.out == f"student: {folder}\n"
    assert weights_hash(folder) != weights_hash(run.path / "student")
    assert f"- Steps: {first} of" in (folder / "README.md").read_text()


def test_best_checkpoint_is_that_of_the_lowest_validation_when_exported(run: Run, call: Call) -> None:
    best = run.state(run.checkpoints()[-1])["callbacks"]["Checkpointer"]["best"]["step"]
    result = call("export", str(run.path), "checkpoint=best")
    assert result.out == f"student: {run.path}/export/{run.checkpoint(best).name}\n"


def flip(run: Run) -> None:
    path = run.checkpoint(run.checkpoints()[-1]) / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["checkpoint=7"], "checkpoint=7: no such checkpoint; allowed: last, best, "),
        (["checkpoint=newest"], "checkpoint=newest"),
        (["chekpoint=last"], "did you mean checkpoint?"),
        (["license=apache"], "did you mean apache-2.0?"),
        (["push_to_hub=me/model", "private=maybe"], "private=maybe"),
        (["push_to_hub=model"], "error: push_to_hub=model: not a repository's name; allowed: owner/name"),
        (["push_to_hub=a/b/c"], "error: push_to_hub=a/b/c: "),
        (["push_to_hub=me/model"], "HF_TOKEN"),
        (["checkpoint=last"], "state.pt differs from the manifest"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_export_is_refused_in_one_line_when_it_cannot_be_done(
    words: list[str], expected: str, run: Run, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    flip(run)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    result = call("export", str(run.path), *words)
    (line,) = result.err.splitlines()
    assert (result.code, result.out) == (2, "")
    assert line.startswith("error: ")
    assert expected in line
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


OCCUPIED = {
    "the run": ("run", "holds the run itself"),
    "above the run": (".", "holds the run itself"),
    "the checkpoints": ("run/checkpoints", "checkpoints"),
    "below the checkpoints": ("run/checkpoints/new", "checkpoints"),
    "files of someone": ("models", "holds something else"),
    "files of someone, at home": ("~/models", "holds something else"),
    "a model that was not exported": ("bert", "holds something else"),
    "an export and more": ("more", "holds something else"),
    "a file": ("models/notes.txt", "holds something else"),
}


@pytest.mark.parametrize(("output", "problem"), OCCUPIED.values(), ids=OCCUPIED)
def test_export_removes_nothing_when_something_else_is_in_its_place(
    output: str, problem: str, run: Run, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "notes.txt").write_text("mine")
    for name in ("bert", "more"):
        shutil.copytree(run.path / "student", tmp_path / name)
    (tmp_path / "bert" / "README.md").write_text("# BERT")
    (tmp_path / "more" / ".git").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    place = output if output.startswith("~") else tmp_path / output
    result = call("export", str(run.path), f"output={place}")
    (line,) = result.err.splitlines()
    assert (result.code, result.out) == (2, "")
    assert line.startswith(f"error: output={place}: ") and problem in line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_export_takes_the_place_of_an_earlier_one_when_made_again(
    run: Run, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "small").mkdir()
    for words in (["license=mit"], ["license=apache-2.0"]):
        assert call("export", str(run.path), "output=~/small", *words).code == 0
    assert ModelCard.load(tmp_path / "small" / "README.md").data.license == "apache-2.0"
    assert weights_hash(tmp_path / "small") == weights_hash(run.path / "student")


# --- the hub -----------------------------------------------------------------------------------------------------


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as one upload needs; it takes TOKEN and notes what it is given."""

    created: list[dict[str, Any]]
    files: dict[str, bytes]

    def _answer(self, code: int, body: Any, **headers: str) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        headers |= {"content-type": "application/json", "content-length": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _refused(self) -> bool:
        refused = self.headers.get("authorization") != f"Bearer {TOKEN}"
        if refused:
            self._answer(401, {"error": "Invalid username or password."})
        return refused

    def do_GET(self) -> None:
        if not self._refused():
            self._answer(404, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self._refused():
            return
        address = f"http://{self.headers['host']}/me/model"
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self._answer(200, {"url": address})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for n in names]
            self._answer(200, {"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{address}/commit/{'0' * 40}"})
        else:
            self._answer(200, {})

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def hub() -> Iterator[tuple[type[_Hub], str]]:
    """A hub's notes and its address."""
    handler = type("Hub", (_Hub,), {"created": [], "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def environment(address: str, token: str) -> dict[str, str]:
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    return proxies | {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def test_folder_is_on_the_hub_when_pushed(run: Run, start: Start, hub: tuple[type[_Hub], str]) -> None:
    notes, address = hub
    words = ["push_to_hub=me/model", "private=true", "license=apache-2.0"]
    process = start("export", str(run.path), *words, environment=environment(address, TOKEN)).succeed()
    assert process.stdout.splitlines()[-1] == f"hub: {address}/me/model"
    assert [(repo["name"], repo["organization"], repo["visibility"]) for repo in notes.created] == [
        ("model", "me", "private")
    ]
    student = run.path / "student"
    assert notes.files == {path.name: path.read_bytes() for path in student.iterdir()}
    assert 'model="me/model"' in notes.files["README.md"].decode()
    assert TOKEN not in process.stdout + process.stderr


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize(("token", "code"), [("hf_wrong", 2), (TOKEN, 4)], ids=["wrong token", "no hub"])
def test_nothing_is_exported_when_the_hub_does_not_take_it(
    token: str, code: int, run: Run, start: Start, hub: tuple[type[_Hub], str]
) -> None:
    before, began = (run.path / "student" / "README.md").read_text(), time.monotonic()
    address = hub[1] if code == 2 else "http://127.0.0.1:9"
    words = ["push_to_hub=me/model", "license=mit"]
    process = start("export", str(run.path), *words, environment=environment(address, token))
    assert process.wait(60) == code
    assert time.monotonic() - began < 30
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: push_to_hub=me/model: the hub ")
    assert hub[0].created == []
    assert (run.path / "student" / "README.md").read_text() == before
