"""Run upstream's tests of llama-server: `python -m tests.upstream [--native PROGRAM] [ARGUMENTS OF PYTEST]`.

Without arguments it runs all that can be run. With --native, a llama-server of this host is tested with the same model
in place of the gate: what fails there is not the gate's fault. ZOSIA_UPSTREAM_ALL=1 leaves no single test out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "site_scons")]
from tests.upstream import plugin  # noqa: E402


def run(arguments: list[str]) -> int:
    """Run tests, named by upstream's file names, and return pytest's exit status."""
    native = ""
    if arguments[:1] == ["--native"]:
        native, arguments = str(Path(arguments[1]).absolute()), arguments[2:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(plugin.sources() / "tools/server/tests/unit", folder / "unit")
        shutil.copy(plugin.sources() / "tools/server/tests/utils.py", folder)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        paths = [str(folder), str(plugin.ROOT), str(plugin.ROOT / "site_scons")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), plugin.FOLDER: name}
        environment |= {"ZOSIA_UPSTREAM_NATIVE": native, "no_proxy": "127.0.0.1", "PYTHONSAFEPATH": "1"}
        argv = [sys.executable, "-m", "pytest", "-p", "tests.upstream.plugin", "--rootdir", name, "-c"]
        argv += [str(folder / "pytest.ini"), *(arguments or ["-q"])]
        named = any(not word.startswith("-") for word in arguments)
        return subprocess.run(
            [*argv, *([] if named else ["unit"])], cwd=folder, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
