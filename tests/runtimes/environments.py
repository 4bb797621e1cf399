"""The runtimes in which exported ONNX files are run, each in an environment of its own.

    python tests/runtimes/environments.py [NAME…]   # creates all environments that do not exist, or those named

Environments are created in the folder ``ATTENTION_ZOO_RUNTIMES``, by default ``~/.cache/attention_zoo/runtimes``. All
of them take about 16 GB, mostly for PyTorch. A runtime that cannot be installed is skipped, and the reason is stored in
place of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(os.environ.get("ATTENTION_ZOO_RUNTIMES") or Path.home() / ".cache" / "attention_zoo" / "runtimes")
WORKERS = Path(__file__).resolve().parent / "workers"
INSTALLATION = 1800  # seconds after which an installation is given up


@dataclass(frozen=True)
class Runtime:
    """One runtime, or a tool that rewrites a file before a runtime runs it.

    Attributes:
        name: its name, also of its folder.
        worker: the file in ``workers`` that runs the cases; one that ends in ``.mjs`` runs in Node.
        packages: what pip or, for a worker in Node, npm installs.
        without_dependencies: packages that pip installs after these, without what they depend on.
        newest_python: the last minor version of Python 3 that `packages` support.
        form: the form of the files, if it reads only one: "static", or "rknn" for its own target.
        limit: the difference above which a float32 result is wrong, as a share of the largest magnitude.
        options: environment variables of the worker.
        programs: programs of which one must be installed, such as a browser.
    """

    name: str
    worker: str
    packages: tuple[str, ...]
    without_dependencies: tuple[str, ...] = ()
    newest_python: int = 14
    form: str = ""
    limit: float = 1e-3
    options: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return FOLDER / "environments" / self.name

    @property
    def in_node(self) -> bool:
        return self.worker.endswith(".mjs")

    @property
    def installed(self) -> Path:
        """The file with the installed versions, which is written last."""
        return self.folder / "installed.json"

    @property
    def refused(self) -> Path:
        """The file with the reason for which the runtime could not be installed."""
        return FOLDER / "environments" / f"{self.name}.txt"

    @property
    def versions(self) -> dict[str, str]:
        return json.loads(self.installed.read_text()) if self.installed.is_file() else {}

    @property
    def reason(self) -> str:
        """Why the runtime is not there, in one line; "" if it is."""
        if self.installed.is_file():
            return ""
        return self.refused.read_text().strip() if self.refused.is_file() else "not installed"

    @property
    def command(self) -> list[str]:
        """The command that runs the worker, without its arguments."""
        program = "node" if self.in_node else str(self.folder / "bin" / "python")
        return [program, str(WORKERS / self.worker)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the worker. A module in Node finds its packages by their folder."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {**mine, **self.options, "RUNTIME_PACKAGES": str(self.folder / "node_modules")}


def _onnxruntime(version: str, *more: str, newest_python: int = 13) -> Runtime:
    packages = (f"onnxruntime=={version}", *more)
    return Runtime(f"onnxruntime-{version}", "run_onnxruntime.py", packages, newest_python=newest_python)


def _web(version: str, provider: str) -> Runtime:
    packages = (f"onnxruntime-web@{version}", "puppeteer-core@24")
    name = f"onnxruntime-web-{version}-{provider}"
    options = {"RUNTIME_PROVIDER": provider}
    return Runtime(name, "run_web.mjs", packages, options=options, programs=("chromium", "google-chrome", "chrome"))


OWN = ("onnx==1.23.2", "onnxruntime==1.31.1")  # what the package itself is tested with
RKNN = (  # what rknn-toolkit2 imports; it declares more
    *("numpy<2", "onnx<1.17", "onnxruntime<1.20", "protobuf<5", "psutil", "ruamel.yaml", "scipy", "tqdm"),
    *("opencv-python-headless<4.12", "fast-histogram", "setuptools<81"),
)
RUNTIMES = (
    _onnxruntime("1.17.3", "numpy<2", newest_python=12),
    _onnxruntime("1.19.2", "numpy<2", newest_python=12),
    _onnxruntime("1.20.1"),
    _onnxruntime("1.22.1"),
    _onnxruntime("1.23.2"),
    _onnxruntime("1.31.1", newest_python=14),
    *(Runtime(f"openvino-{v}", "run_openvino.py", (f"openvino=={v}",)) for v in ("2024.6.0", "2025.4.1", "2026.4.1")),
    Runtime("mnn-3.6.1", "run_mnn.py", ("MNN==3.6.1", "numpy")),
    # A file with open sizes either loads within seconds, or takes more time than anyone waits.
    Runtime("tract-0.23.9", "run_tract.py", ("tract==0.23.9", "numpy"), options={"RUNTIME_SECONDS": "20"}),
    Runtime("opencv-4.12.0", "run_opencv.py", ("opencv-python-headless==4.12.0.88",), form="static"),
    Runtime("opencv-5.0.0", "run_opencv.py", ("opencv-python-headless==5.0.0.93",), form="static"),
    Runtime(
        "rknn-2.5.0",
        "run_rknn.py",
        (*RKNN, "torch"),
        without_dependencies=("rknn-toolkit2==2.5.0",),
        newest_python=12,
        form="rknn",
        limit=2e-2,  # it computes in float16
    ),
    Runtime("onnx-reference-1.23.2", "run_reference.py", ("onnx==1.23.2",)),
    Runtime("onnxslim-0.1.98", "run_onnxslim.py", ("onnxslim==0.1.98", *OWN)),
    Runtime("onnxsim-0.8.1", "run_onnxsim.py", ("onnxsim==0.8.1", *OWN)),
    Runtime("onnx2torch-1.5.15", "run_onnx2torch.py", ("onnx2torch==1.5.15", "onnx==1.23.2", "torch", "torchvision")),
    Runtime("onnxruntime-node-latest", "run_node.mjs", ("onnxruntime-node@latest",)),
    *(_web(version, "wasm") for version in ("1.17.3", "1.22.0", "latest")),
    _web("latest", "webgpu"),
)
BY_NAME = {runtime.name: runtime for runtime in RUNTIMES}


def named(names: list[str]) -> list[Runtime]:
    """Return the runtimes whose names begin with one of `names`; all of them if there are none.

    Raises:
        SystemExit: one of `names` is not the beginning of a name.
    """
    for name in names:
        if not any(known.startswith(name) for known in BY_NAME):
            sys.exit(f"runtime: got {name!r}; accepted: the beginning of one of {', '.join(BY_NAME)}")
    return [runtime for runtime in RUNTIMES if not names or any(runtime.name.startswith(name) for name in names)]


def install(runtime: Runtime) -> None:
    """Create the environment of a runtime, or store the reason for which that is not possible."""
    shutil.rmtree(runtime.folder, ignore_errors=True)
    runtime.refused.unlink(missing_ok=True)
    try:
        if runtime.programs and not any(map(shutil.which, runtime.programs)):
            raise RuntimeError(f"none of the programs {', '.join(runtime.programs)} is installed")
        found = _with_npm(runtime) if runtime.in_node else _with_pip(runtime)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(runtime.folder, ignore_errors=True)
        runtime.refused.parent.mkdir(parents=True, exist_ok=True)
        runtime.refused.write_text(f"{' '.join(str(error).split())[:200]}\n")
    else:
        runtime.installed.write_text(json.dumps(found, indent=1))


def _with_pip(runtime: Runtime) -> dict[str, str]:
    if sys.version_info[1] > runtime.newest_python:
        raise RuntimeError(f"it has no wheels for Python 3.{sys.version_info[1]}, only up to 3.{runtime.newest_python}")
    _run([sys.executable, "-m", "venv", str(runtime.folder)])
    pip = [str(runtime.folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    _run([*pip, "numpy", *runtime.packages])
    if runtime.without_dependencies:
        _run([*pip, "--no-deps", *runtime.without_dependencies])
    libraries = [str(folder) for folder in runtime.folder.glob("lib/python3*/site-packages")]
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions(path=libraries)}
    return {name: version for name, version in sorted(found.items()) if name not in ("pip", "setuptools")}


def _with_npm(runtime: Runtime) -> dict[str, str]:
    if not shutil.which("npm"):
        raise RuntimeError("npm is not installed")
    runtime.folder.mkdir(parents=True)
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip", "PUPPETEER_SKIP_DOWNLOAD": "1"}
    _run(["npm", "install", *quiet, "--prefix", str(runtime.folder), *runtime.packages], environment)
    found = {}
    for package in runtime.packages:
        name = package.rpartition("@")[0]
        text = (runtime.folder / "node_modules" / name / "package.json").read_text()
        found[name] = json.loads(text)["version"]
    return found


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a command.

    Raises:
        RuntimeError: it failed. The message is the last line that says "error", or the last one of all.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=INSTALLATION,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise RuntimeError((errors or lines or [f"exit code {done.returncode}"])[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the beginnings of the names of runtimes")
    parser.add_argument("--again", action="store_true", help="create environments that exist once more")
    arguments = parser.parse_args()
    for runtime in named(arguments.names):
        if arguments.again or not runtime.installed.is_file():
            install(runtime)
        print(f"{runtime.name:32} {runtime.reason or 'installed'}", flush=True)


if __name__ == "__main__":
    main()
