"""Runs a few lines of Python in an interpreter of their own."""

import os
import subprocess
import sys
import textwrap


def run_script(lines, *, timeout=60, **environment):
    """Standard output of `lines`, run with these environment variables; fails where they fail."""
    variables = {name: value for name, value in os.environ.items()
                 if not name.startswith(("FASTCONV_", "OMP_"))}
    variables |= environment
    # -P: the installed package, not the source in the current folder, which has no compiled module.
    command = [sys.executable, "-P", "-c", textwrap.dedent(lines)]
    done = subprocess.run(command, env=variables, timeout=timeout, capture_output=True, text=True)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()
