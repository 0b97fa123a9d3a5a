"""Every command that takes a model takes AION-1's folders and ids of the hub, pinned."""

import numpy as np
import pytest

from omnisky.data.tables import read_table
from omnisky.modalities import Observations, Scalar
from tests.pretrained.stand_in import COMMIT, RELEASED, write_released_model

HUB_ID = "someone/aion"
PINNED = f"{HUB_ID}@{COMMIT}"
_RNG = np.random.default_rng(0)
FLUXES = {name: _RNG.uniform(1, 20, 40).astype("f4") for name in RELEASED if "flux" in name}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return write_released_model(tmp_path_factory.mktemp("released") / "aion")


@pytest.fixture
def table(tmp_path):
    """Return a table of fluxes, of which the model reads some, and of a label."""
    lines = [f"id,{','.join(FLUXES)},legacysurvey_flux_z,mass"]
    for i, row in enumerate(zip(*FLUXES.values(), strict=True)):
        lines.append(f"{i},{','.join(map(str, row))},1.0,{row[0] / 10}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


@pytest.fixture(params=["folder", "hub"])
def base(request, hub, released):
    """Return how a user names the model, how it is kept, and the hub if that was asked."""
    if request.param == "folder":
        return str(released), str(released), None
    return f"{HUB_ID}@v1", PINNED, hub(released)


def seen():
    return Observations({name: Scalar(values) for name, values in FLUXES.items()})


def test_embed(run, base, released, table, tmp_path):
    from omnisky.model import Model

    asked, kept, hub = base
    out = tmp_path / "e.parquet"
    code, _, error = run("embed", table, "--base", asked, "--out", out)
    assert code == 0, error
    assert f"the model {kept} does not read legacysurvey_flux_z: not used" in error
    found = read_table(out)["embedding"]
    wanted = Model.from_pretrained(released).embed(seen())
    np.testing.assert_allclose(found, wanted.vectors, atol=1e-6)
    assert f"Embedding by {kept}, mean pooling" in found.description
    # From the first on, all are of one commit.
    assert hub is None or set(hub.revisions[1:]) == {COMMIT}
    assert hub is None or hub.revisions[0] == "v1"


def test_tokenize(run, base, released, table, tmp_path):
    import omnisky

    asked, kept, _ = base
    out = tmp_path / "t.parquet"
    code, _, error = run("tokenize", table, "--base", asked, "--out", out)
    assert code == 0, error
    found = read_table(out)
    for tokens in (omnisky.tokenize(seen(), asked), omnisky.tokenize(seen(), released)):
        for name in FLUXES:
            np.testing.assert_array_equal(found[f"{name}_tokens"], tokens[name][:, 0])
    assert f"model {kept}" in found[f"{name}_tokens"].description


def test_generate(run, base, table, tmp_path):
    out = tmp_path / "g.parquet"
    command = ("generate", table, "--base", base[0], "--target", "desi_z", "--samples", 2)
    code, _, error = run(*command, "--out", out)
    assert code == 0, error
    assert np.isfinite(read_table(out)["desi_z"]).all()
    assert base[2] is None or set(base[2].revisions[1:]) == {COMMIT}


def test_fit_keeps_the_commit_for_predict(run, base, table, tmp_path):
    from omnisky.adapt import FineTunedModel

    asked, kept, hub = base
    model = tmp_path / "model"
    command = ("fit", table, "--base", asked, "--targets", "mass", "--adaptation", "linear")
    code, _, error = run(*command, "--out", model)
    assert code == 0, error
    assert FineTunedModel.load(model).base == kept
    if hub is not None:
        hub.calls.clear()
    code, _, error = run("predict", table, "--model", model, "--out", tmp_path / "p.csv")
    assert code == 0, error
    assert hub is None or set(hub.revisions) == {COMMIT}


def test_info_and_cite_fetch_no_weights(run, base):
    asked, _, hub = base
    code, printed, error = run("info", asked)
    assert (code, error) == (0, "")
    assert ", ".join(RELEASED) in printed
    assert "tok_flux_g, tok_flux_r, tok_z" in printed
    assert ("weights not here" in printed) == (hub is not None)
    code, printed, error = run("cite", "--model", asked)
    assert (code, error) == (0, "")
    assert "DESI" in printed
    assert "Gaia" not in printed
    assert hub is None or not hub.fetched


def test_info_on_a_release_without_codecs(run, released, tmp_path):
    import shutil

    bare = shutil.copytree(released, tmp_path / "bare", ignore=shutil.ignore_patterns("codecs"))
    code, printed, _ = run("info", bare)
    assert code == 0
    assert [line.split() for line in printed.splitlines() if "modalities" in line] == [
        ["modalities", "none"]
    ]


def test_a_table_the_model_cannot_read_costs_no_weights(run, hub, released, tmp_path):
    found = hub(released)
    (tmp_path / "j.csv").write_text("id,twomass_j\n1,10.0\n")
    for command in ("embed", "tokenize"):
        code, _, error = run(
            command, tmp_path / "j.csv", "--base", HUB_ID, "--out", tmp_path / "e.fits"
        )
        assert code == 2
        assert f"the model {PINNED} does not read twomass_j; it reads desi_z, legacy" in error
    assert found.revisions[0] is None
    assert not found.fetched


@pytest.mark.parametrize("command", ["embed", "tokenize", "generate", "fit", "info", "cite"])
def test_out_of_reach_is_one_line(run, table, tmp_path, monkeypatch, command):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no network\nhere.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    more = {"generate": ("--target", "desi_z"), "fit": ("--targets", "mass")}.get(command, ())
    how = (table, "--base", f"{HUB_ID}@v1", "--out", tmp_path / "o.fits", *more)
    how = {"info": (f"{HUB_ID}@v1",), "cite": ("--model", f"{HUB_ID}@v1")}.get(command, how)
    code, printed, error = run(command, *how)
    assert (code, printed) == (2, "")
    assert error == (
        f"omnisky: {HUB_ID} (revision v1) is no folder here and could not be fetched from the hub: "
        "no network here. Offline, give the path of a local copy\n"
    )
