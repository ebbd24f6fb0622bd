"""Virtual environments of the peers: one each, since their requirements exclude one another."""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
# What is compiled here is compiled for this processor.
NATIVE = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF", "CMAKE_BUILD_PARALLEL_LEVEL": "2"}


def environment_of(name):
    return ROOT / f".venv-peers-{name}"


def python_of(name):
    return environment_of(name) / "bin/python"


def failure_of(name):
    """Why the last installation failed, None where it did not or was never tried."""
    path = environment_of(name) / "failed"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def is_installed(name):
    return (environment_of(name) / "ready").exists()


def is_prebuilt(name):
    """Whether it could not be compiled for this processor, and a package made elsewhere runs."""
    return (environment_of(name) / "prebuilt").exists()


def _error_of(command, environment):
    """Why a command failed, in a line; None where it did not."""
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
    return errors[-1].strip()


def install(name):
    """Makes the environment of requirements/NAME.txt unless it is there; True when it is."""
    requirements = HERE / "requirements" / f"{name}.txt"
    folder = environment_of(name)
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == requirements.read_text():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: installing into {folder.name}", file=sys.stderr, flush=True)
    environment = dict(os.environ, **NATIVE)
    if shutil.which("ccache"):
        environment["CMAKE_ARGS"] += (" -DCMAKE_C_COMPILER_LAUNCHER=ccache"
                                      " -DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
    pip = [str(python_of(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lines = requirements.read_text(encoding="utf-8").splitlines()
    error = _error_of([sys.executable, "-m", "venv", str(folder)], environment)
    if error is None:
        error = _error_of([*pip, "-r", str(requirements)], environment)
        if error and any(line.startswith("--no-binary") for line in lines):
            # What cannot be compiled here may be there as a package for every processor.
            print(f"{name}: {error}; trying a prebuilt package", file=sys.stderr, flush=True)
            packages = [line for line in lines if line and not line.startswith("-")]
            second = _error_of([*pip, "--only-binary", ":all:", *packages], environment)
            if second is None:
                (folder / "prebuilt").write_text(error + "\n", encoding="utf-8")
            error = second and f"{error}; prebuilt: {second}"
    if error:
        folder.mkdir(exist_ok=True)
        (folder / "failed").write_text(error[:300] + "\n", encoding="utf-8")
        print(f"{name}: {error}", file=sys.stderr)
        return False
    ready.write_text(requirements.read_text())
    return True
