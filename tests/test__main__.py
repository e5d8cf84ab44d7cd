import subprocess
import sys

import hpvade as hp


def test_the_package_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "hpvade", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"hpvade {hp.__version__}\n" and done.stderr == ""
    wrong = subprocess.run([sys.executable, "-m", "hpvade", "nonsense"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "Usage: hpvade" in wrong.stderr
