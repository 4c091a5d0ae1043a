"""`download --portrait`: what a first portrait needs, chosen, confirmed, resumed, checked; and the table without a network."""

import hashlib
import http.server
import io
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from support.model_folders import face_pack

from dhumandiff.__main__ import main
from dhumandiff.cli import fetching, portrait_download, portrait_list
from dhumandiff.cli.portrait_list import ITEMS, Item, Source

SDXL = {"model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 2048)}


class Hub:
    """Two repositories on Hugging Face, with sizes and checksums, and what was asked of them."""

    def __init__(self, folder):
        self.folder, self.asked, self.cut, self.damage = folder, [], 0, False

    def model_info(self, repository, *, files_metadata, timeout):
        entries = []
        for path in sorted((self.folder / repository).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                name = path.relative_to(self.folder / repository).as_posix()
                lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest())
                entries.append(SimpleNamespace(rfilename=name, size=len(content), lfs=lfs))
        return SimpleNamespace(siblings=entries, sha="5e1f")

    def hf_hub_download(self, repository, filename, *, revision, local_dir):
        assert revision == "5e1f"
        self.asked.append(filename)
        path = Path(local_dir) / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        content = (self.folder / repository / filename).read_bytes()
        content = content[: len(content) - self.cut]
        path.write_bytes(b"?" + content[1:] if self.damage else content)
        return str(path)


class Files(http.server.BaseHTTPRequestHandler):
    """A server of one file that knows ranges, and can break off."""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self):
        wanted = self.headers.get("Range")
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.server.asked.append(begin)
        content = self.server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(min(len(content), self.server.at_most)))
        self.end_headers()
        self.wfile.write(content[: self.server.at_most])

    def log_message(self, *_):
        pass


def zipped(folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return buffer.getvalue()


@pytest.fixture
def pack_server(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.content, server.asked, server.at_most = zipped(face_pack(tmp_path / "made" / "buffalo_l")), [], 10**9
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch, pack_server):
    """Everything published, small; the face pack on a server of its own."""
    hub = Hub(tmp_path / "hub")
    for item in ITEMS:
        for source in item.sources:
            if source.repository:
                path = hub.folder / source.repository / source.remote
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file({f"{source.place}": torch.ones(9)}, path)
    url = f"http://127.0.0.1:{pack_server.server_port}/buffalo_l.zip"
    items = [
        Item(**{**vars(item), "sources": (Source("", url, item.sources[0].place),)})
        if item.key == "face-pack"
        else item
        for item in ITEMS
    ]
    for module in (portrait_list, portrait_download):
        monkeypatch.setattr(module, "ITEMS", tuple(items))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return hub


def download(models, *words):
    return main(["download", "--portrait", "--models", str(models), *words])


def answers(monkeypatch, *lines):
    """Somebody at the keyboard."""
    left = list(lines)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda *_: left.pop(0))
    return left


PLACES = [source.place for item in ITEMS if item.usual for source in item.sources]


def test_everything_that_is_usual_comes_to_comfyuis_places(tmp_path, hub, capsys):
    models = tmp_path / "models"
    assert download(models, "--accept", "all") == 0
    assert all((models / place).exists() for place in PLACES)
    assert sorted(path.name for path in (models / "insightface/models/buffalo_l").iterdir()) == [
        "det_10g.onnx",
        "w600k_r50.onnx",
    ]
    assert not (models / "ipadapter").exists()
    assert not (models / fetching.STAGING).exists()
    out = capsys.readouterr().out
    assert "python -m dhumandiff generate" in out
    assert all(item.license in out for item in ITEMS)


def test_what_is_there_is_left_alone(tmp_path, hub, capsys):
    models = tmp_path / "models"
    assert download(models, "--accept", "all") == 0
    hub.asked.clear()
    assert download(models) == 0  # no license is asked for, as nothing is fetched
    assert hub.asked == []
    assert "Nothing is to be fetched" in capsys.readouterr().out


def test_another_sdxl_checkpoint_does_as_well(tmp_path, hub, capsys):
    models = tmp_path / "models"
    (models / "checkpoints" / "xl").mkdir(parents=True)
    save_file(SDXL, models / "checkpoints" / "xl" / "mine.safetensors")
    assert download(models, "--accept", "all") == 0
    assert "sd_xl_base_1.0.safetensors" not in hub.asked
    assert "mine.safetensors" in capsys.readouterr().out


def test_the_way_that_businesses_may_use_comes_by_name(tmp_path, hub):
    """IP-Adapter and open face models, in the folder where they are looked for."""
    from dhumandiff.faces.onnx_packs import open_files

    models = tmp_path / "models"
    assert download(models, "--items", "ip-adapter", "yunet", "auraface", "--accept", "all") == 0
    assert all(path.is_relative_to(models) for path in open_files(models / "insightface"))
    hub.asked.clear()
    assert download(models, "--items", "yunet", "auraface") == 0
    assert hub.asked == []


def test_half_a_file_is_fetched_again(tmp_path, hub):
    models = tmp_path / "models"
    assert download(models, "--accept", "all") == 0
    path = models / "checkpoints" / "sd_xl_base_1.0.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    hub.asked.clear()
    assert download(models, "--accept", "base") == 0
    assert hub.asked == ["sd_xl_base_1.0.safetensors"]


def test_only_what_is_chosen_comes(tmp_path, hub, monkeypatch):
    models = tmp_path / "models"
    assert download(models, "--items", "ip-adapter", "--accept", "ip-adapter") == 0
    assert hub.asked == ["sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors"]
    left = answers(monkeypatch, "2 1", "yes", "Y")
    assert download(models) == 0
    assert hub.asked[1:] == ["models/image_encoder/model.safetensors", "sd_xl_base_1.0.safetensors"]
    assert not left


@pytest.mark.parametrize(
    ("lines", "code", "named"),
    [
        (["", "no"], "licence-not-accepted", "SDXL base 1.0"),
        (["", "maybe", "", "ok"], "licence-answer-not-clear", "SDXL base 1.0"),
        (["9"], "download-choice-not-clear", f"1 to {len(ITEMS)}"),
        (["base"], "download-choice-not-clear", "'base'"),
    ],
)
def test_a_wrong_answer_fetches_nothing(tmp_path, hub, monkeypatch, capsys, lines, code, named):
    answers(monkeypatch, *lines)
    assert download(tmp_path / "models") == 1
    assert named in capsys.readouterr().err
    assert hub.asked == []
    assert not (tmp_path / "models").exists()


def test_where_nobody_can_be_asked_licenses_are_named(tmp_path, hub, capsys):
    assert download(tmp_path / "models", "--accept", "base") == 1
    assert "--accept image-encoder" in capsys.readouterr().err
    assert hub.asked == []


def test_a_disk_without_room_is_refused_before_anything_is_fetched(tmp_path, hub, monkeypatch, capsys):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert download(tmp_path / "models", "--accept", "all") == 1
    assert "no room" in capsys.readouterr().err
    assert hub.asked == []


def test_a_file_that_breaks_off_or_is_damaged_never_gets_its_name(tmp_path, hub, capsys):
    path = tmp_path / "models" / "checkpoints" / "sd_xl_base_1.0.safetensors"
    for change, words in (({"cut": 5}, "broke off"), ({"damage": True}, "SHA-256")):
        vars(hub).update({"cut": 0, "damage": False, **change})
        assert download(tmp_path / "models", "--items", "base", "--accept", "base") == 1
        assert words in capsys.readouterr().err
        assert not path.exists()
    hub.damage = False
    assert download(tmp_path / "models", "--items", "base", "--accept", "base") == 0
    assert path.exists()


def test_a_pack_goes_on_where_it_stopped(tmp_path, hub, pack_server, capsys):
    models = tmp_path / "models"
    pack_server.at_most = 100
    assert download(models, "--items", "face-pack", "--accept", "all") == 1
    assert "broke off" in capsys.readouterr().err
    assert not (models / "insightface").exists()
    pack_server.at_most = 10**9
    assert download(models, "--items", "face-pack", "--accept", "all") == 0
    assert pack_server.asked == [0, 100]


def test_a_pack_that_is_no_zip_is_refused(tmp_path, hub, pack_server, capsys):
    pack_server.content = b"<html>" * 50
    assert download(tmp_path / "models", "--items", "face-pack", "--accept", "all") == 1
    assert "no whole .zip" in capsys.readouterr().err
    assert not (tmp_path / "models" / "insightface").exists()


def test_a_file_that_is_no_longer_published_is_named(tmp_path, hub, capsys):
    (hub.folder / "Pan1111/DHumanDiff/mapping.pt").unlink()
    assert download(tmp_path / "models", "--accept", "all") == 1
    assert "no longer holds mapping.pt" in capsys.readouterr().err
    assert hub.asked == []


@pytest.mark.parametrize("words", [["--accept", "all"], ["--list"]], ids=["offline", "list"])
def test_without_a_network_a_table_says_what_to_put_where(tmp_path, hub, monkeypatch, capsys, words):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(hub, "model_info", offline)
    assert download(tmp_path / "models", *words) == (0 if words == ["--list"] else 1)
    out, err = capsys.readouterr()
    for item in ITEMS:
        for source in item.sources:
            if source.repository and (item.usual or "--list" in words):
                assert source.url in out
                assert str(tmp_path / "models" / source.place) in out
    assert "no network" in err or words == ["--list"]
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--portrait", "--to", "x"], "download-options-clash", "--models"),
        (["--portrait", "--method", "withanyone"], "download-options-clash", "--method"),
        (["--accept", "all"], "download-options-need-portrait", "--accept"),
        (["--items", "base"], "download-options-need-portrait", "--items"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(words, code, named, capsys):
    assert main(["download", *words]) == 1
    assert named in capsys.readouterr().err
