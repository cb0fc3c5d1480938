"""Makes the roots of the Dockerfile's stages without an engine: its own steps, run in roots that debootstrap makes.

    PYTHONPATH=helm python -m images FOLDER [STAGE ...]

For root on Debian; takes a few minutes and some GB. A root is FOLDER/STAGE, and FOLDER/images.json says how it is
started and how big it is. What is another than in an image: the base is Debian bookworm with its own Python 3.11, not
the `python` image with one of its own making; and pip and apt use this machine's configuration.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from images.dockerfile import DEFAULT_SHELL, Stage, expanded, ignored, read

REPOSITORY = Path(__file__).parents[2]
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = "ca-certificates,python3,python3-dev,python3-pip,python3-venv"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIP_FILES = ("/etc/pip.conf", str(Path.home() / ".config/pip/pip.conf"), str(Path.home() / ".pip/pip.conf"))
HERE = ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", *PIP_FILES[:1])


def main() -> None:
    """Make the stages that are asked for, and those that they take files of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("stages", nargs="*", default=["node", "router"])
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    asked = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("expected root and debootstrap (on Debian, apt-get install debootstrap)")
    if "CLEAN_ROOT_MOUNTS" not in os.environ:  # in a mount namespace of its own: nothing stays mounted
        os.environ["CLEAN_ROOT_MOUNTS"] = "private"
        again = [sys.executable, "-m", "images", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *again])  # noqa: S606 S607
    asked.folder.mkdir(parents=True, exist_ok=True)
    images = Images(asked.folder.resolve(), dict(each.split("=", 1) for each in asked.build_arg))
    for stage in asked.stages:
        images.make(stage)
    said = asked.folder / "images.json"
    known = json.loads(said.read_text()) if said.exists() else {}
    said.write_text(json.dumps({**known, **images.made}, indent=2) + "\n")
    for stage, made in images.made.items():
        print(f"{stage}: {made['mebibytes']} MiB on top of the base's {made['base_mebibytes']} MiB")  # noqa: T201


class Images:
    """The Dockerfile's stages as folders.

    Args:
        folder: they are below it.
        given: build arguments.

    Attributes:
        made: of each stage how it is started: `command`, `user`, `environment`; and `mebibytes` on top of the base's.
    """

    def __init__(self, folder: Path, given: dict[str, str]) -> None:
        self._folder = folder
        self._given = given
        before, self._stages = read(REPOSITORY / "Dockerfile")
        self._global = self._arguments([step.text for step in before], {})
        self.made: dict[str, dict[str, object]] = {}

    def make(self, name: str) -> None:
        """One stage."""
        if name in self.made:
            return
        stage = self._stages[name]
        for step in stage.steps:
            if step.name == "COPY" and "--from=" in step.text:
                self.make(step.words()[0].removeprefix("--from="))
        root = self._folder / name
        if root.exists():
            shutil.rmtree(root)
        _run("cp", "--archive", "--reflink=auto", str(self._base(stage)), str(root))
        before = _mebibytes(root)
        made = self._run_steps(stage, root)
        self.made[name] = {**made, "mebibytes": _mebibytes(root) - before, "base_mebibytes": before}

    def _base(self, stage: Stage) -> Path:
        """A root of Debian with Python, as the stage's base is one."""
        image = expanded(stage.base, self._global)
        if not re.fullmatch(rf"python:{re.escape(PYTHON)}(\.\d+)?-slim-{SUITE}(@sha256:[0-9a-f]{{64}})?", image):
            raise ValueError(f"expected a base python:{PYTHON}-slim-{SUITE}, which is what is made here; got {image}")
        root = self._folder / "base"
        if not (root / "ready").exists():
            shutil.rmtree(root, ignore_errors=True)
            _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root))
            for name in ("python", "pip"):
                link = root / "usr/local/bin" / name
                link.symlink_to(f"/usr/bin/{name}3")
            # Debian keeps pip away from its own packages; the base image has none.
            (root / f"usr/lib/python{PYTHON}/EXTERNALLY-MANAGED").unlink(missing_ok=True)
            (root / "ready").touch()
        return root

    def _run_steps(self, stage: Stage, root: Path) -> dict[str, object]:
        shell, folder, user = list(DEFAULT_SHELL), "/", "0:0"
        environment: dict[str, str] = {}
        arguments: dict[str, str] = {}
        started: dict[str, list[str]] = {"ENTRYPOINT": [], "CMD": []}
        for step in stage.steps:
            if step.name == "SHELL":
                shell = step.words()
            elif step.name == "WORKDIR":
                folder = step.text
                (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.name == "ENV":
                environment |= dict(word.split("=", 1) for word in step.words())
            elif step.name == "ARG":
                arguments |= self._arguments([step.text], self._global)
            elif step.name == "COPY":
                self._copy(step.words(), root, folder)
            elif step.name == "USER":
                user = step.text
            elif step.name == "RUN":
                with _as_here(root) as here:
                    given = {"PATH": PATH, "HOME": "/root", **here, **arguments, **environment}
                    inside = ["chroot", str(root), "env", "--chdir", folder, *shell, step.text]
                    _run(*inside, environment=given)
            else:
                started[step.name] = step.words()
        command = [*started["ENTRYPOINT"], *started["CMD"]]
        return {"command": command, "user": user, "environment": {"PATH": PATH, **environment}}

    def _copy(self, words: list[str], root: Path, folder: str) -> None:
        origin = REPOSITORY
        if words[0].startswith("--from="):
            origin = self._folder / words.pop(0).removeprefix("--from=")
        *sources, target = words
        place = root / (target if target.startswith("/") else f"{folder}/{target}").lstrip("/")
        for source in sources:
            found = origin / source.lstrip("/")
            if origin is REPOSITORY and found.is_dir():
                _copy_context(place)
            elif found.is_dir():
                shutil.copytree(found, place, dirs_exist_ok=True, symlinks=True)
            else:
                place.mkdir(parents=True, exist_ok=True) if target.endswith("/") else None
                shutil.copy2(found, place)

    def _arguments(self, texts: list[str], known: dict[str, str]) -> dict[str, str]:
        found = {}
        for text in texts:
            name, _, default = text.partition("=")
            found[name] = self._given.get(name, default or known.get(name, ""))
        return found


def _copy_context(place: Path) -> None:
    """What `COPY . .` copies: all that .dockerignore leaves."""
    patterns = REPOSITORY.joinpath(".dockerignore").read_text().split()
    for path, folders, files in os.walk(REPOSITORY):
        below = Path(path).relative_to(REPOSITORY)
        folders[:] = [name for name in folders if not ignored((below / name).as_posix(), patterns)]
        for name in files:
            if not ignored((below / name).as_posix(), patterns):
                (place / below).mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(path) / name, place / below / name, follow_symlinks=False)


@contextmanager
def _as_here(root: Path) -> Iterator[dict[str, str]]:
    """Mount what a step needs of this machine: devices, name servers, pip's configuration and where that points to."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    configuration = [Path(name).read_text() for name in PIP_FILES if Path(name).is_file()]
    for name in PIP_FILES[1:]:
        if Path(name).is_file():
            variables["PIP_CONFIG_FILE"] = name
    said = " ".join([*variables.values(), *configuration])
    # An index in files is a folder beside that of its files.
    pointed = [str(Path(name).parent) for name in re.findall(r"file://(/[^\s'\"]+)", said)]
    pointed += re.findall(r"(?<!\S)(/[^\s'\"]+)", said)
    asked = {*HERE, *pointed, variables.get("PIP_CONFIG_FILE", "")}
    wanted = sorted(name for name in asked if name and Path(name).exists())
    with ExitStack() as stack:
        for name in ("/dev", "/proc"):
            stack.enter_context(_mounted(name, root, "--rbind"))
        for name in wanted:
            stack.enter_context(_mounted(name, root, "--bind"))
        yield variables


@contextmanager
def _mounted(name: str, root: Path, how: str) -> Iterator[None]:
    place = root / name.lstrip("/")
    made = not place.exists()
    if made and Path(name).is_dir():
        place.mkdir(parents=True)
    elif made:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _run("mount", how, name, str(place))
    try:
        yield
    finally:
        _run("umount", "--recursive", str(place))
        if made:
            place.rmdir() if place.is_dir() else place.unlink()


def _mebibytes(root: Path) -> int:
    said = subprocess.run(["du", "-sxm", str(root)], capture_output=True, text=True, check=True)  # noqa: S603 S607
    return int(said.stdout.split()[0])


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=environment)  # noqa: S603


if __name__ == "__main__":
    main()
