"""A room imports only from the rooms to its left, and start-up stays light."""

import subprocess
import sys

import pytest
from source import ROOT, imported, modules

# `storage` is no room but the floor: how any artefact is put on disk.
ROOMS = (
    "storage modalities surveys mock data pretrained codecs model train adapt baselines bench"
    " catalog serve cli"
).split()
# Start-up must not wait for any of these.
HEAVY = ("torch", "astropy", "sklearn", "scipy", "pyarrow", "matplotlib", "huggingface_hub")


def room_of(dotted: str) -> str | None:
    parts = dotted.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if parts[0] == "omnisky" and len(parts) > 1 else None


# The two that speak for the whole package.
FACES = {"omnisky/__init__.py", "omnisky/__main__.py"}


@pytest.mark.parametrize("path", [p for p in modules() if p not in FACES])
def test_imports_only_from_rooms_to_the_left(path):
    room = room_of(path)
    assert room in ROOMS, f"{path}: {room} is no room; the rooms are {ROOMS}"
    for name in imported(modules()[path]):
        other = room_of(name)
        if other is None or other == room:
            # `import omnisky` would hide which room is used; the last room may, for the version.
            alone = name != "omnisky" or room == ROOMS[-1]
            assert alone, f"{path} imports omnisky itself; import the room it needs"
            continue
        if other not in ROOMS:
            continue  # `from omnisky import __version__` and the like
        assert ROOMS.index(other) < ROOMS.index(room), f"{path} imports {name}, to its right"


def loaded_after(code: str) -> set[str]:
    code += "\nimport sys; print('\\nLOADED', *sorted(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import omnisky",
        "import omnisky; dir(omnisky)",
        "from omnisky import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as done:\n    assert not done.code",
    ],
    ids=["import", "dir", "help"],
)
def test_start_up_loads_nothing_heavy(code):
    if "cli" in code:
        pytest.importorskip("omnisky.cli")
    assert loaded_after(code).isdisjoint(HEAVY)


@pytest.mark.parametrize("room", ["surveys", "pretrained"])
def test_some_rooms_need_numpy_only(room):
    assert loaded_after(f"import omnisky.{room}").isdisjoint(HEAVY)
