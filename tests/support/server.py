"""A ComfyUI server in a process of its own, and what a client says to it."""

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from support.comfyui import COMFYUI, DEVICE, REPOSITORY


class Server:
    """Starts ComfyUI with this pack, the tiny base and a base folder of its own."""

    def __init__(self, base: Path, *flags: str) -> None:
        self.base = base
        for folder in ("custom_nodes", "input", "output", "models"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / "dhumandiff").symlink_to(REPOSITORY)
        (base / "custom_nodes" / "tiny_nodes").symlink_to(Path(__file__).parent / "tiny_nodes")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        command = [sys.executable, "main.py", *(["--cpu"] if DEVICE == "cpu" else [])]
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(base), "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        command += ["--use-pytorch-cross-attention", "--preview-method", "latent2rgb", *flags]
        self.log = base / "server.log"
        self.process = subprocess.Popen(
            command,
            cwd=COMFYUI,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        )

    def wait(self, seconds: float = 120) -> None:
        """Until the server answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                self.get("system_stats")
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def blueprints(self) -> dict | None:
        """What the page gets for its library of blueprints, by id; None on a ComfyUI that knows none of packs."""
        try:
            return self.get("global_subgraphs")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer) if answer.headers.get_content_type() == "application/json" else {}
        except urllib.error.HTTPError as error:
            return json.load(error)

    def run(self, prompt: dict, seconds: float = 240) -> dict:
        """Queue a prompt in API form and wait; {"outputs", "status", "error"}."""
        answer = self.post("prompt", {"prompt": prompt})
        if "prompt_id" not in answer or answer.get("node_errors"):
            return {"error": json.dumps(answer), "outputs": {}, "status": {}}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            entry = self.get(f"history/{answer['prompt_id']}").get(answer["prompt_id"])
            if entry:
                messages = [body for kind, body in entry["status"]["messages"] if kind == "execution_error"]
                cached = [body["nodes"] for kind, body in entry["status"]["messages"] if kind == "execution_cached"]
                return {
                    "outputs": entry["outputs"],
                    "status": entry["status"],
                    "error": messages[0]["exception_message"] if messages else None,
                    "cached": set(cached[0]) if cached else set(),
                }
            time.sleep(0.1)
        raise TimeoutError(f"the prompt did not end within {seconds} s")


def api_form(workflow: dict) -> dict:
    """A workflow file as the page would queue it."""
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ("MarkdownNote", "Note"):
            continue
        values = iter(node.get("widgets_values", []))
        inputs = {}
        for entry in node.get("inputs", []):
            if "widget" in entry:
                inputs[entry["name"]] = next(values)
                if entry["name"] in ("seed", "noise_seed"):
                    next(values)  # what becomes of the seed after the run: the page's affair
            if entry.get("link") is not None:
                link = links[entry["link"]]
                inputs[entry["name"]] = [str(link[1]), link[2]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


TINY = {
    "CheckpointLoaderSimple": {"ckpt_name": "tiny_sdxl.safetensors"},
    "CLIPVisionLoader": {"clip_name": "tiny_vision.safetensors"},
    "DHDLoadFaceAnalysis": {"pack": "mini"},
    "DHDLoadAdapter": {"adapter_name": "tiny_adapter.safetensors"},
    "DHDCascadeKSampler": {"steps": 4},
    "KSampler": {"steps": 4},
}
PHOTOS = ("person_1.jpg", "person_2.jpg")
NO_BLUEPRINTS = "this ComfyUI does not know blueprints of packs: they came after 0.3.66"


def on_the_tiny_base(prompt: dict) -> dict:
    """The prompt with the tiny base's files and the example photos chosen."""
    photos = iter(PHOTOS)
    for node in prompt.values():
        node["inputs"].update(TINY.get(node["class_type"], {}))
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = next(photos)
    return prompt


def node_of(prompt: dict, kind: str) -> str:
    """The number of the first node of a kind."""
    return next(key for key, node in prompt.items() if node["class_type"] == kind)


def with_guider(prompt: dict, steps: int = 3) -> dict:
    """The prompt with the guider and SamplerCustomAdvanced in the place of the cascade's own sampler."""
    sampler = prompt[node_of(prompt, "DHDCascadeKSampler")]["inputs"]
    names = ("model", "positive", "negative", "cfg", "scene_strength", "face_strength", "focus_share", "mode")
    parts = {
        "noise": ("RandomNoise", {"noise_seed": sampler["seed"]}),
        "guider": ("DHDCascadeGuider", {name: sampler[name] for name in names}),
        "sampler": ("KSamplerSelect", {"sampler_name": "dpmpp_2m"}),
        "sigmas": ("KarrasScheduler", {"steps": steps, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 7.0}),
    }
    changed = copy.deepcopy(prompt)
    changed |= {f"{name}_": {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in parts.items()}
    inputs = {name: [f"{name}_", 0] for name in parts} | {"latent_image": sampler["latent_image"]}
    changed["sample_"] = {"class_type": "SamplerCustomAdvanced", "inputs": inputs}
    changed[node_of(changed, "VAEDecode")]["inputs"]["samples"] = ["sample_", 0]
    gone = [node_of(changed, "DHDCascadeKSampler")]
    for key in gone:  # grows: what shows its focus goes, too
        del changed[key]
        gone += [other for other, node in changed.items() if [key] in [link[:1] for link in links_of(node)]]
    return changed


def links_of(node: dict) -> list[list]:
    """The inputs of a node that are links: [node, slot]."""
    return [value for value in node["inputs"].values() if isinstance(value, list)]


def add_faces(base: Path, faces_root: Path) -> None:
    """Photos, and face models that find the faces on them, into a base folder."""
    for photo in (*(faces_root / "photos").iterdir(), *(REPOSITORY / "examples").glob("*.jpg")):
        shutil.copyfile(photo, base / "input" / photo.name)
    shutil.copytree(faces_root / "models" / "mini", base / "models" / "insightface" / "models" / "mini")
