"""A run that is killed at random and started again computes what an uninterrupted run computes, bit for bit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from attention_zoo.training.callbacks import Resume

SCRIPT = Path(__file__).with_name("killed_run.py")


def run(backend: str, folder: Path, losses: Path, kind: str, steps: float | None = None) -> int:
    """Run the script in a process of its own, and return its exit status: 0, or -9 if it was killed."""
    command = [
        sys.executable,
        str(SCRIPT),
        str(folder),
        str(losses),
        kind,
        *([] if steps is None else [str(steps)]),
    ]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, cwd=os.path.sep, env=environment
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def killed_runs(backend: str, folder: Path, kind: str, kills: int, seed: int = 0) -> tuple[int, int]:
    """Train again and again, with kills at random moments, until there were `kills` of them.

    Returns:
        The number of kills, and how many of them fell into the middle of an epoch.
    """
    rng, done, inside, number = random.Random(seed), 0, 0, 0
    whole = folder / "whole.txt"
    assert run(backend, folder / "whole", whole, kind) == 0
    expected = whole.read_text().splitlines()
    assert len(expected) == len(set(expected)) == 37
    while done < kills:
        backup, losses = folder / f"backup-{number}", folder / f"losses-{number}.txt"
        number += 1
        for attempt in range(6):
            last = attempt == 5 or done == kills
            status = run(backend, backup, losses, kind, None if last else rng.uniform(1, 20))
            done += status == -9
            if status == 0:
                break
            epoch, step = losses.read_text().splitlines()[-1].split()[:2]
            inside += step != "11"
            print(f"{backend}, {kind}: run {number}, kill {done} in epoch {epoch} after step {step}", flush=True)
        got = losses.read_text().splitlines()
        # Steps after the last backup are computed twice: each time with the same bits.
        assert set(got) == set(expected), (kind, number)
        assert not (backup / "state.safetensors").exists()
    return done, inside


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_killed_run_continues_bit_for_bit(backend: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    killed, inside = killed_runs(backend, tmp_path, kind, kills=3)
    assert killed == 3 and inside > 0


def test_arguments() -> None:
    with pytest.raises(ValueError, match="save_freq"):
        Resume("any", save_freq=0)
    with pytest.raises(ValueError, match="data: got list"):
        Resume("any", data=[])


if __name__ == "__main__":  # python tests/training/test_resume.py FOLDER KILLS [BACKEND]: as many as you like
    for one in ("arrays", "dataset"):
        place = Path(sys.argv[1]).absolute() / one
        place.mkdir(parents=True)
        chosen = sys.argv[3] if len(sys.argv) > 3 else "tensorflow"
        print(one, killed_runs(chosen, place, one, int(sys.argv[2])))
