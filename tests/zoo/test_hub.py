"""Models by their names on the Hugging Face hub, from a server that answers as the hub does, and from the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import attention_zoo as az
from attention_zoo.zoo.hub import hub_name
from helpers import ROOT

GOLDENS = ROOT / "tests" / "goldens"
COMMIT, OLD = "a" * 40, "b" * 40
NOT_FOUND = {"X-Error-Code": "RepoNotFound"}


class Hub:
    """The repositories that the server has: files by path, for each name. `requests` are the paths asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                hub.requests.append(self.path)
                status, content, headers = hub.answer([unquote(p) for p in urlsplit(self.path).path[1:].split("/")])
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, parts: list[str]) -> tuple[int, bytes, dict[str, str]]:
        """Return status, content and headers for the path with these `parts`."""
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        if name in self.gated or name not in self.repositories:
            return (403, b"", {"X-Error-Code": "GatedRepo"}) if name in self.gated else (401, b"", NOT_FOUND)
        revision = parts[5] if api and len(parts) > 5 else parts[3] if not api else "main"
        commit = {"main": COMMIT, "old": OLD, COMMIT: COMMIT, OLD: OLD}.get(revision)
        if commit is None:
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        files = {k: v for k, v in self.repositories[name].items() if commit == COMMIT or k != "tokenizer.json"}
        if api:
            hashes = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}
            tree = [{"type": "file", "path": k, "size": len(files[k]), "oid": oid} for k, oid in hashes.items()]
            info = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
            return 200, json.dumps(tree if "tree" in parts else info).encode(), {"Content-Type": "application/json"}
        if (content := files.get("/".join(parts[4:]))) is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        return 200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}

    def add(self, name: str, *folders: Path, **files: bytes) -> None:
        held = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for folder in folders
            for file in folder.rglob("*")
            if file.is_file()
        }
        self.repositories[name] = {**held, **files}

    @property
    def downloaded(self) -> set[str]:
        """The files that were asked for since the last call."""
        found = {path.partition("/resolve/")[2].partition("/")[2] for path in self.requests if "/resolve/" in path}
        self.requests.clear()
        return found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: Any) -> Iterator[Hub]:
    """A hub, and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    found = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    yield found
    found.server.shutdown()


def offline(monkeypatch: Any) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(name: str, *parts: str, **options: Any) -> None:
    with pytest.raises(ValueError) as caught:
        az.load(name, **options)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in (name, "accepted:", *parts)), message


def test_names() -> None:
    assert hub_name("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", None)
    assert hub_name("org/name:model.Q4_K_M.gguf") == ("org/name", "model.Q4_K_M.gguf")
    assert hub_name("org/name/Q8/model-00001-of-00002.gguf") == ("org/name", "Q8/model-00001-of-00002.gguf")
    assert hub_name(Path("org/name")) == ("org/name", None)
    for path in (
        "gpt2",
        "/org/name",
        "./org",
        "../org",
        "a/b/c",
        "org/name:",
        "a/m.keras",
        "org/name/../x.gguf",
        "a/b.onnx",
        "a/b..c",
        "a/b--c",
    ):
        assert hub_name(path) is None, path


def test_load(hub: Hub, monkeypatch: Any) -> None:
    """Only the files that are needed, from the cache the next time, and without a connection."""
    junk = {"pytorch_model.bin": b"no", "model.onnx": b"no", "README.md": b"no", "consolidated.safetensors": b"no"}
    hub.add("org/bert", GOLDENS / "sentences" / "body", **junk)
    hub.repositories["org/bert"] |= {"onnx/model.onnx": b"no", "onnx/config.json": b"{}"}
    model = az.load("org/bert")
    assert model.tokenizer is not None
    assert hub.downloaded == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    az.load("org/bert")
    assert hub.downloaded == set()
    assert az.load("org/bert", revision="old").tokenizer is None
    refused("org/bert", "no revision 'no' of it", revision="no")
    with pytest.raises(ValueError, match="revision: got ''; accepted: a branch"):
        az.load("org/bert", revision="")
    offline(monkeypatch)
    assert az.load("org/bert").tokenizer is not None
    assert az.load("org/bert", revision=OLD).tokenizer is None
    refused("org/other", "not in the cache")


def test_a_path_wins(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/bert", GOLDENS / "gpt2")
    shutil.copytree(GOLDENS / "bert", tmp_path / "org" / "bert")
    assert az.load("org/bert").family == "bert"
    refused("org/bert", "revision: got 'main'", revision="main")


def test_shards(hub: Hub) -> None:
    hub.add("org/llama", GOLDENS / "llama-sharded")
    hub.repositories["org/llama"]["other-00001-of-00001.safetensors"] = b"no"
    az.load("org/llama")
    found = {name for name in hub.downloaded if name.endswith(".safetensors")}
    assert len(found) > 1 and not any(name.startswith("other") for name in found)
    files = dict(hub.repositories["org/llama"])
    first = min(found)
    hub.repositories["org/a"] = {name: content for name, content in files.items() if name != first}
    refused("org/a", f"without {first}")
    hub.repositories["org/b"] = {**files, first: files[first][:-100]}
    with pytest.raises(ValueError, match=f"{first} cannot be read"):
        az.load("org/b")
    hub.repositories["org/c"] = {**files, "model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}
    with pytest.raises(ValueError, match="has no weight_map from tensors to files"):
        az.load("org/c")


def test_sentences(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/st", GOLDENS / "sentence-modules" / "layer_norm")
    model = az.load("org/st")
    assert model.config.embedding_dim == 6 and model.tokenizer is not None
    old = tmp_path / "old"
    shutil.copytree(GOLDENS / "sentence-modules" / "layer_norm", old)
    (old / "0_Transformer").mkdir()
    for file in [file for file in old.iterdir() if file.is_file() and file.name not in ("modules.json",)]:
        file.rename(old / "0_Transformer" / file.name)
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    hub.add("org/old", old)
    assert az.load("org/old").config == model.config


def test_gguf(hub: Hub) -> None:
    file = GOLDENS / "llama-gguf" / "f16.gguf"
    hub.repositories["org/gguf"] = {"f16.gguf": file.read_bytes(), "q/f16.gguf": file.read_bytes(), "README.md": b""}
    for name in ("org/gguf:f16.gguf", "org/gguf/f16.gguf", "org/gguf/q/f16.gguf"):
        assert az.load(name).family == "gpt"
    assert hub.downloaded == {"f16.gguf", "q/f16.gguf"}
    refused("org/gguf", "which has GGUF files; accepted: org/gguf:f16.gguf")
    refused("org/gguf:no.gguf", "accepted: one of ['f16.gguf', 'q/f16.gguf']")


def test_adapter(hub: Hub) -> None:
    hub.add("org/llama", GOLDENS / "llama")
    hub.add("org/lora", GOLDENS / "adapters" / "llama")
    config = json.loads(hub.repositories["org/lora"]["adapter_config.json"])
    hub.repositories["org/lora"]["adapter_config.json"] = json.dumps(
        {**config, "base_model_name_or_path": "org/llama"}
    ).encode()
    assert az.load("org/lora").huggingface["model_type"] == "llama"
    names = {"adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"}
    assert hub.downloaded - {"generation_config.json"} == names
    hub.repositories.pop("org/llama")
    shutil.rmtree("cache/models--org--llama")
    with pytest.raises(ValueError, match=r"base: got None for the adapter .* whose base is 'org/llama': .*accepted"):
        az.load("org/lora")
    assert az.load("org/lora", base=GOLDENS / "llama").family == "gpt"


def test_refused(hub: Hub, monkeypatch: Any) -> None:
    hub.gated.add("org/gated")
    refused("org/gated", "accepting its conditions", "hf auth login")
    refused("org/none", "neither a path nor a repository that the hub shows to this account")
    hub.repositories["org/pickles"] = {"config.json": b'{"model_type": "bert"}', "pytorch_model.bin": b"x"}
    refused("org/pickles", "only ['pytorch_model.bin'], which can hold code and are never opened")
    assert "pytorch_model.bin" not in hub.downloaded
    hub.repositories["org/empty"] = {"README.md": b"x"}
    refused("org/empty", "a repository without config.json")
    refused("org/m.bin", "never opened")
    refused("https://huggingface.co/org/llama", "got the address https://huggingface.co/org/llama", "'org/llama' alone")
    refused("org/llama:Q4_K_M", "as org/llama:<name>-Q4_K_M.gguf")
    refused("llama", "path: got llama, which does not exist")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("org/unreachable", "the hub does not answer")


@pytest.mark.slow
def test_command_line(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/llama", GOLDENS / "llama")
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "attention_zoo.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**environment, **more}, check=False)

    done = run("info", "org/llama", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["family"] == "gpt", done.stderr
    done = run("convert", "org/llama", "ours", HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and az.load(tmp_path / "ours").family == "gpt", done.stderr
    done = run("info", "org/other")
    assert done.returncode == 2 and "neither a path nor a repository" in done.stderr
