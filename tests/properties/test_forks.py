"""The files here that fork, each in a process of its own: children of one with other threads may wait for ever."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forked_kills.py", "forked_tampered.py"])
def test_in_a_process_of_its_own(name, request):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", HERE / name]
    if profile := request.config.getoption("--hypothesis-profile", None):
        command.append(f"--hypothesis-profile={profile}")
    run = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and " skipped" not in run.stdout
