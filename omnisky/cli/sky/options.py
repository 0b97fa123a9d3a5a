"""Options that the commands of sky stores share, or that are many."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from omnisky.cli.tables import Reading, names_in

__all__ = ["Beside", "Files", "Layout", "OnError", "Stamps", "Table"]

Files = Annotated[tuple[Path, ...], Parameter(consume_multiple=True, show_default=False)]
OnError = Literal["raise", "quarantine"]
_Size = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=4096))]
_NotNegative = Annotated[float, Parameter(validator=validators.Number(gte=0))]


@Parameter(name="*", group="The store")
@dataclass(frozen=True, kw_only=True)
class Layout:
    """Say how a store is laid out.

    Parameters
    ----------
    profile : str
        packed is read row by row at the speed of the disk; interchange opens as lists in LSDB,
        datasets and pandas. Both are HATS.
    codec : str
        Of images and spectra in a packed store: as they are, compressed without loss, or as 16-bit
        steps with errors of at most a 32nd of sigma.
    margin_arcsec : float
        Width of the margin around partitions in which neighbours are listed, for LSDB.
    """

    profile: Literal["packed", "interchange"] = "packed"
    codec: Literal["raw", "lossless", "q16"] = "raw"
    margin_arcsec: _NotNegative = 10.0

    def options(self) -> dict[str, Any]:
        """Return them as `omnisky.data.store.StoreSpec` takes them."""
        if self.profile == "interchange" and self.codec != "raw":
            raise ValueError(
                f"--codec {self.codec} is for packed stores; leave it out, or --profile interchange"
            )
        return {field.name: getattr(self, field.name) for field in fields(self)}


@Parameter(name="*", group="Cut-outs (legacysurvey, hsc)")
@dataclass(frozen=True, kw_only=True)
class Stamps:
    """Say how objects are cut out of images.

    Parameters
    ----------
    images : Path, optional
        Folder of the co-added images, searched with those below it. Without it, only the values of
        the catalogue are stored.
    size : int, optional
        Side of a cut-out in pixels; 160 by default.
    bands : str, optional
        Bands, separated by commas; all of the survey by default.
    missing_bands : str, optional
        Whether a band that a brick lacks is an error (the default) or masked.
    without_image : str, optional
        Whether an object outside of all images is a problem (the default) or kept without one.
    trusted : bool
        Decode images in this process, which is faster, but lets a damaged file crash it.
    """

    images: Path | None = None
    size: _Size | None = None
    bands: str | None = None
    missing_bands: Literal["error", "mask"] | None = None
    without_image: Literal["problem", "keep"] | None = None
    trusted: bool = False

    def options(self) -> dict[str, Any]:
        """Return those that were given, but the folder, as readers take them."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "images"}
        given = {name: value for name, value in given.items() if value not in (None, False)}
        if self.bands is not None:
            given["bands"] = tuple(names_in(self.bands) or ())
        return given


@Parameter(name="*", group="Files beside the catalogue")
@dataclass(frozen=True, kw_only=True)
class Beside:
    """Name files that belong to those of the catalogue.

    Parameters
    ----------
    redshifts : tuple of Path
        desi: redrock or zbest file of each coadd; by default those beside the coadds.
    coefficients : tuple of Path
        gaia: table of XP coefficients of each source table.
    labels : Path, optional
        lamost: csv table of stellar parameters.
    """

    redshifts: Files = ()
    coefficients: Files = ()
    labels: Path | None = None


@Parameter(name="*", group="Columns of a table")
@dataclass(frozen=True, kw_only=True)
class Table:
    """Say which columns of a table of one's own hold what.

    Parameters
    ----------
    ra : str, optional
        Column of the right ascension; found by itself if it is called ra or the like.
    dec : str, optional
        Column of the declination.
    keep : str, optional
        Columns of numbers to keep under their own names, separated by commas.
    """

    ra: str | None = None
    dec: str | None = None
    keep: str | None = None

    def columns(self, reading: Reading) -> Any:
        """Return them together with how to read the table."""
        from omnisky.data.positions import TableColumns

        return TableColumns(
            ra=self.ra,
            dec=self.dec,
            identifier=reading.id,
            measured=reading.mapping(),
            keep=tuple(names_in(self.keep) or ()),
            resample=reading.resample,
        )
