"""`export --push`: what is uploaded to the Hub, and tokens that are missing or may only read. The Hub is a server on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.refused import refused
from support.shards import make_shards
from support.small_base import make_base, make_config

for package in ("accelerate", "diffusers", "huggingface_hub", "jsonargparse", "transformers", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

import yaml

from training import export
from training.card import head
from training.run.loop import train

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

CHOSEN = ["--license", "Apache-2.0", "--base_model", "stabilityai/stable-diffusion-xl-base-1.0"]


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of https://huggingface.co for a small upload."""

    def do_GET(self):
        if self.path == "/api/whoami-v2":
            self.answer(200, {"name": "owner", "auth": {"accessToken": {"role": self.server.role}}})
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        self.server.asked.append((self.path, body))
        if self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.server.forbidden:
            self.answer(403, {"error": "You have read access, not write"})
        elif self.path == "/api/repos/create":
            self.answer(200, {"url": f"{self.server.url}/owner/pair"})
        elif "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            address = f"{self.server.url}/owner/pair/commit/0123"
            self.answer(200, {"commitUrl": address, "commitOid": "0123", "success": True})
        else:
            self.answer(404, {"error": self.path})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.role, server.forbidden, server.asked = "write", False, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push")
    shards = make_shards(folder / "shards", samples=4)
    return train(make_config(make_base(folder / "base"), shards, folder / "run", steps=1)).run


def command(run, out, *words):
    export.main(["--run", str(run), "--out", str(out), "--push", "owner/pair", *words])


def test_what_was_made_is_uploaded_and_nothing_else(run, tmp_path, hub, capsys):
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "private.txt").write_text("not yours")
    command(run, tmp_path / "pair", *CHOSEN, "--private", "true")
    assert f"Pushed to {hub.url}/owner/pair" in capsys.readouterr().out
    (made,) = (json.loads(body) for path, body in hub.asked if path == "/api/repos/create")
    assert (made["name"], made["organization"]) == ("pair", "owner")
    assert made.get("private") or made.get("visibility") == "private"
    (committed,) = (body for path, body in hub.asked if "/commit/" in path)
    entries = [json.loads(line) for line in committed.decode().splitlines()]
    names = {entry["value"]["path"] for entry in entries if entry["key"] == "file"}
    assert {"README.md", "pair.safetensors", "released/mapping.pt"} <= names
    assert not any("private" in name for name in names)


def test_the_card_is_checked_by_the_hub_first(run, tmp_path, hub):
    command(run, tmp_path / "pair", *CHOSEN)
    order = [path for path, _ in hub.asked]
    assert order.index("/api/validate-yaml") < order.index("/api/repos/create")
    card = (tmp_path / "pair" / "README.md").read_text()
    told = yaml.safe_load(card.split("---")[1])
    assert told["license"] == "apache-2.0"
    assert told["base_model"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert told["library_name"] == "dhumandiff"


def test_a_token_that_may_only_read_is_refused_before_anything_is_made(run, tmp_path, hub):
    hub.role = "read"
    with refused("hub-token-read-only", "owner/pair", "settings/tokens"):
        command(run, tmp_path / "pair", *CHOSEN)
    assert not (tmp_path / "pair").exists()


def test_a_token_for_another_owner_is_refused_and_the_files_stay(run, tmp_path, hub):
    hub.forbidden = True
    with refused("hub-token-read-only", "owner/pair"):
        command(run, tmp_path / "pair", *CHOSEN)
    assert (tmp_path / "pair" / "pair.safetensors").is_file()


def test_a_missing_token_is_refused_before_anything_is_made(run, tmp_path, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with refused("hub-token-missing", "hf auth login"):
        command(run, tmp_path / "pair", *CHOSEN)
    assert not (tmp_path / "pair").exists()


def test_a_hub_that_is_not_there_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with refused("hub-not-reached", "owner/pair"):
        command(run, tmp_path / "pair", *CHOSEN)


@pytest.mark.parametrize("words", [[], CHOSEN[:2], CHOSEN[2:]])
def test_a_license_and_the_base_have_to_be_chosen(run, tmp_path, words):
    with refused("push-without-license", "--license", "--base_model"):
        command(run, tmp_path / "pair", *words)


def test_a_name_without_owner_is_refused(run, tmp_path):
    with refused("hub-name-not-valid", "pair"):
        command(run, tmp_path / "pair", *CHOSEN, "--push", "pair")


def test_a_license_that_the_hub_does_not_know_goes_by_a_name():
    told = head("My Studio's licence 1.0", "")
    assert (told["license"], told["license_name"]) == ("other", "my-studio-s-licence-1.0")
    assert "base_model" not in told
