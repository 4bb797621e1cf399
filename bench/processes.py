"""An object in a new Python process, whose methods are called through lines of JSON.

``multiprocessing`` is not used, because its processes execute the main script again, with all of its imports.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

# Exceptions that are raised again in the calling process.
PASSED_ON = {kind.__name__: kind for kind in (ValueError, ImportError, ModuleNotFoundError)}
CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import serve; serve()"


class Worker:
    """An object ``make(**options)`` in a new process, which ends with the ``with`` block.

    Args:
        make: A class at the top level of a module. Its options and the results of its methods must be JSON types.
        environment: Environment variables to set in the process.
        options: The arguments of `make`.

    Raises:
        ValueError, ImportError: If `make` raises them.
        ChildProcessError: If the process ended unexpectedly, for example for lack of memory.
    """

    def __init__(self, make: type, *, environment: Mapping[str, str] | None = None, **options: Any) -> None:
        self.name = options.get("path", make.__name__)
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", CODE.format(module=__name__), json.dumps(list(map(str, sys.path)))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **(environment or {})},
        )
        try:
            self._send({"module": make.__module__, "make": make.__name__, "options": options})
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, **options: Any) -> Any:
        """Return the result of ``object.method(**options)``. Raises the same errors as the class."""
        return self._send({"method": method, "options": options})

    def _send(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ChildProcessError(f"{self.name}: the process that timed it {self._end()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PASSED_ON[answer["error"]](answer["message"])
        return answer["result"]

    def _end(self) -> str:
        """Describe how the process ended, with the last line that it wrote to standard error."""
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"{how}: {said[-1] if said else 'it said nothing, as where memory runs out'}"

    def close(self) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # closing flushes data that could not be sent
                stream.close()
        self.process.wait()
        self.errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def serve() -> None:
    """Run the new process: for each line of standard input, create the object or call one of its methods."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # redirect the output of libraries, which is not part of the answers
    made: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "make" in request:
                made = getattr(importlib.import_module(request["module"]), request["make"])(**request["options"])
                answer: dict[str, Any] = {"result": None}
            else:
                answer = {"result": getattr(made, request["method"])(**request["options"])}
        except tuple(PASSED_ON.values()) as error:
            traceback.print_exc()
            kinds = (kind.__name__ for kind in type(error).__mro__)
            answer = {"error": next(name for name in kinds if name in PASSED_ON), "message": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
