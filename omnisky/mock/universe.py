"""The mock universe as a lazy data set: objects by number, and what each survey has of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.mock.native import desi, gaia, hsc, legacysurvey, sdss
from omnisky.mock.native.files import marks
from omnisky.mock.native.rows import Instruments, Rows
from omnisky.mock.population import UniverseConfig, draw_with_fluxes
from omnisky.mock.surroundings import ON_REQUEST, measured
from omnisky.mock.truth import COLUMNS, STAR, Truth
from omnisky.modalities import Observations, SkyObjects

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["SURVEYS", "Universe", "modalities_of"]

_ROWS: dict[str, Callable[..., Rows]] = {
    "legacysurvey": legacysurvey.rows,
    "hsc": hsc.rows,
    "desi": desi.rows,
    "sdss": sdss.rows,
    "gaia": gaia.rows,
}
SURVEYS = tuple(_ROWS)
# What takes long to make, by survey.
_HEAVY = {
    "legacysurvey": "legacysurvey_image",
    "hsc": "hsc_image",
    "desi": "desi_spectrum",
    "sdss": "sdss_spectrum",
    "gaia": "gaia_xp_coefficients",
}
_IMAGED = ("legacysurvey", "hsc")
_STAMP = 160
_MOST = 1 << 40


def modalities_of(survey: str) -> tuple[str, ...]:
    """Return the names of the modalities that a survey has of mock objects.

    Raises
    ------
    ValueError
        If the survey is not one of `SURVEYS`.
    """
    from omnisky.surveys import surveys

    _check_survey(survey)
    # XP in other forms is made from the coefficients; no table of the archive has it so.
    apart = ("gaia_xp", "gaia_xp_bp", "gaia_xp_rp", *ON_REQUEST)
    return tuple(m.name for m in surveys()[survey].modalities if m.name not in apart)


def _known(survey: str) -> tuple[str, ...]:
    """Return the modalities of a survey, those that are only made on request included."""
    return modalities_of(survey) + tuple(n for n in ON_REQUEST if n.startswith(survey))


def _check_survey(survey: str) -> None:
    if survey not in _ROWS:
        raise ValueError(f"no mock survey {survey!r}; there are {', '.join(SURVEYS)}")


class Universe:
    """Hold a mock universe: a sequence of objects, made when they are asked for.

    Object i and its modality m are a function of the configuration, i and m alone, to the last bit:
    whatever the batch, the order, the process or the other modalities asked for. Indexing with a
    slice, integers or a boolean array gives a universe of some of the objects, with the same
    numbers.

    Parameters
    ----------
    seed : int, optional
        Seed of all randomness; that of `config` by default, which is 0.
    n : int
        Number of objects.
    config : UniverseConfig, optional
        What the universe holds and where it lies on the sky.
    size : int
        Side of the images in pixels.

    Raises
    ------
    ValueError
        If seed, number or size is not allowed.

    Examples
    --------
    >>> universe = Universe(seed=1, n=1000)
    >>> universe
    Universe(seed=1, 1000 objects, 20 square degrees, mock)
    >>> len(universe[10:30])
    20
    """

    def __init__(
        self,
        seed: int | None = None,
        n: int = 1000,
        config: UniverseConfig | None = None,
        *,
        size: int = _STAMP,
    ) -> None:
        config = config or UniverseConfig()
        self.config = config if seed is None else replace(config, seed=seed)
        for name, value, least, most in (("n", n, 1, _MOST), ("size", size, 16, 1024)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise ValueError(f"{name} must be an integer; found {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most}; found {value}")
        self.size = int(size)
        self._numbers: np.ndarray | range = range(int(n))
        self._held: tuple[Truth, np.ndarray] | None = None
        self._instruments: Instruments | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return (
            f"Universe(seed={self.config.seed}, {len(self)} objects, "
            f"{self.config.area_deg2:g} square degrees, mock)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_instruments": None}

    @property
    def numbers(self) -> np.ndarray:
        """Numbers of the objects, shape (object,)."""
        return self._at(np.arange(len(self)))

    def _at(self, rows: np.ndarray) -> np.ndarray:
        # Without an array of all numbers, of which there may be a billion.
        return rows if isinstance(self._numbers, range) else self._numbers[rows]

    def __getitem__(self, index) -> Universe:
        """Return a universe of some of the objects: by a slice, integers or a boolean array."""
        rows = self._rows(index)
        part = object.__new__(Universe)
        part.__dict__.update(self.__dict__)
        part._numbers = self._at(rows)
        if self._held is not None:
            part._held = self._held[0][rows], self._held[1][rows]
        return part

    def _rows(self, index: Any) -> np.ndarray:
        """Return positions of objects as an array, checked."""
        if index is None:
            return np.arange(len(self))
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        array = np.atleast_1d(np.asarray(index))
        if array.dtype == bool and array.shape == (len(self),):
            return np.flatnonzero(array)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise TypeError(
                f"index must be integers, a slice or one bool an object; found {array.dtype} of "
                f"shape {array.shape}"
            )
        rows = array.astype(np.int64)
        outside = (rows < -len(self)) | (rows >= len(self))
        if outside.any():
            raise IndexError(f"no object {rows[outside][0]}; there are {len(self)}")
        return np.where(rows < 0, rows + len(self), rows)

    def hold(self) -> Universe:
        """Draw what is true of all objects and keep it in memory, 3 kB each; returns itself."""
        if self._held is None:
            self._held = draw_with_fluxes(self.config, self.numbers)
        return self

    def _drawn(self, rows: np.ndarray) -> tuple[Truth, np.ndarray]:
        """Return truth and fluxes of some objects."""
        if self._held is None:
            return draw_with_fluxes(self.config, self._at(rows))
        return self._held[0][rows], self._held[1][rows]

    @property
    def truth(self) -> Table:
        """What is true of each object: a table with units and descriptions.

        Values that do not apply are masked; ``meta`` says that it is mock.
        """
        from astropy.table import MaskedColumn, Table

        columns = self.hold()._held[0]  # pyright: ignore[reportOptionalSubscript]
        table = Table(meta={**marks(self.config.seed), "config": asdict(self.config)})
        for name, declared in COLUMNS.items():
            values = columns[name]
            table[name] = MaskedColumn(
                values,
                mask=~np.isin(columns["kind"], declared.kinds) | (values != values),
                unit=declared.unit or None,
                description=declared.description,
            )
        return table

    def native(self, survey: str, index: Any = None, *, heavy: bool = True) -> Rows:
        """Return what a survey's files have of objects.

        Parameters
        ----------
        survey : str
            One of `SURVEYS`.
        index : slice, int or array, optional
            Which objects; those that the survey does not have are left out. All by default.
        heavy : bool
            Whether to make images, spectra and coefficients too.

        Raises
        ------
        ValueError
            If the survey is unknown.
        """
        _check_survey(survey)
        truth, fluxes = self._drawn(self._rows(index))
        return self._native(survey, truth, fluxes, heavy)

    def _native(self, survey: str, truth: Truth, fluxes: np.ndarray, heavy: bool) -> Rows:
        here = truth[f"in_{survey}"]
        return _ROWS[survey](self._models, truth[here], fluxes[here], heavy=heavy)

    @property
    def _models(self) -> Instruments:
        if self._instruments is None:
            self._instruments = Instruments(self.config, self.size)
        return self._instruments

    def spurious(
        self, survey: str, number: Sequence[int] | np.ndarray, *, heavy: bool = True
    ) -> Rows:
        """Return rows of a survey that stand for nothing in the sky.

        Parameters
        ----------
        survey : str
            One of `SURVEYS`; only imaging surveys and Gaia have such rows.
        number : sequence of int
            Which of them; `n_spurious` says how many are usual.
        heavy : bool
            Whether to make their images, which show blank sky.
        """
        from omnisky.mock.population.catalogs.spurious import invented

        _check_survey(survey)
        truth, fluxes = invented(self.config, survey, np.asarray(number, dtype=np.int64))
        scene = {}
        if survey in _IMAGED:
            blank = Truth({**truth, "kind": np.full(len(truth), STAR)})
            scene = {"scene": (blank, np.zeros_like(fluxes))}
        return _ROWS[survey](self._models, truth, fluxes, heavy=heavy, **scene)

    def fragments(self, survey: str, index: Any = None, *, heavy: bool = True) -> Rows:
        """Return rows of pieces that a survey's deblending cut off large galaxies.

        Parameters
        ----------
        survey : str
            One of `SURVEYS`; only imaging surveys have such rows.
        index : slice, int or array, optional
            Which objects; few have a fragment. All by default.
        heavy : bool
            Whether to make their images, which show the galaxy off the middle.

        Returns
        -------
        Rows
            Numbers are those of the galaxies, plus 2^41.
        """
        from omnisky.mock.population.catalogs.spurious import FIRST_NUMBER, shreds

        _check_survey(survey)
        truth, fluxes = self._drawn(self._rows(index))
        here = truth[f"in_{survey}"]
        truth, fluxes = truth[here], fluxes[here]
        pieces, light = shreds(self.config, truth, fluxes, survey)
        whole = np.isin(truth["object_id"], pieces["object_id"] - 2 * FIRST_NUMBER)
        scene = {"scene": (truth[whole], fluxes[whole])} if survey in _IMAGED else {}
        rows = _ROWS[survey](self._models, pieces, light, heavy=heavy, **scene)
        if rows.heavy is not None and survey in _IMAGED:
            # Where its stamp and the galaxy's own overlap in a file, the latter shall stay.
            rows = replace(rows, heavy=rows.heavy.behind())
        return rows

    def n_spurious(self, survey: str) -> int:
        """Return how many spurious rows a survey has beside these objects."""
        from omnisky.mock.population.catalogs import spurious_fraction

        _check_survey(survey)
        return round(spurious_fraction(survey) * len(self))

    def observe(
        self, survey: str, index: Any = None, *, modalities: Iterable[str] | None = None
    ) -> SkyObjects:
        """Return what a survey has of objects, as its reader gives it.

        Parameters
        ----------
        survey : str
            One of `SURVEYS`.
        index : slice, int or array, optional
            Which objects; those that the survey does not have are left out. All by default.
        modalities : iterable of str, optional
            Which of the survey's modalities; by default those of `modalities_of`. On request
            there are `omnisky.mock.surroundings.ON_REQUEST` as well.

        Raises
        ------
        ValueError
            If the survey is unknown, none of the objects is in it, or a modality is not its own.
        """
        wanted = tuple(modalities_of(survey) if modalities is None else modalities)
        if unknown := [name for name in wanted if name not in (known := _known(survey))]:
            raise ValueError(f"{survey} has no modality {', '.join(unknown)}; it has {known}")
        native = self.native(survey, index, heavy=_HEAVY[survey] in wanted)
        return measured(native, wanted, self.config.seed)

    def observe_one(self, i: int) -> dict[str, SkyObjects]:
        """Return what each survey has of one object, by survey."""
        truth, fluxes = self._drawn(self._rows(i))
        return {
            survey: measured(
                self._native(survey, truth, fluxes, True), modalities_of(survey), self.config.seed
            )
            for survey in SURVEYS
            if truth[f"in_{survey}"][0]
        }

    def observations(
        self, index: Any = None, modalities: Iterable[str] | None = None
    ) -> Observations:
        """Return typed observations of objects by all surveys, a row each.

        Parameters
        ----------
        index : slice, int or array, optional
            Which objects; all by default.
        modalities : iterable of str, optional
            Names of modalities, by default those of `modalities_of` of all surveys. Where a survey
            does not have an object, its modalities are missing.

        Raises
        ------
        ValueError
            If a modality is of none of `SURVEYS`.
        """
        from omnisky.mock.scattering import scattered

        wanted = None if modalities is None else list(modalities)
        by_survey = {survey: modalities_of(survey) for survey in SURVEYS}
        if wanted is not None:
            by_survey = {survey: _known(survey) for survey in SURVEYS}
            every = {name for names in by_survey.values() for name in names}
            if unknown := [name for name in wanted if name not in every]:
                raise ValueError(
                    f"no mock survey has {', '.join(unknown)}; there are {', '.join(sorted(every))}"
                )
            by_survey = {s: tuple(n for n in wanted if n in has) for s, has in by_survey.items()}
        rows = self._rows(index)
        truth, fluxes = self._drawn(rows)
        found = {}
        for survey, names in by_survey.items():
            if names:
                place = np.flatnonzero(truth[f"in_{survey}"])
                heavy = _HEAVY[survey] in names
                native = self._native(survey, truth, fluxes, heavy) if len(place) else None
                like = len(rows), self.size, self.config.seed
                found |= scattered(names, native, place, like)
        return Observations({name: found[name] for name in wanted or found})

    def owners(self, survey: str) -> tuple[np.ndarray, np.ndarray]:
        """Return identifiers of a survey's rows, and the number of the object that each is.

        Returns
        -------
        object_id : array of int64 or str, shape (row,)
            The survey's identifiers: of the objects it has, of fragments and of spurious rows.
        number : array of int64, shape (row,)
            Number of the object; -1 for fragments and spurious rows.
        """
        parts = [
            self.native(survey, heavy=False),
            self.fragments(survey, heavy=False),
            self.spurious(survey, np.arange(self.n_spurious(survey)), heavy=False),
        ]
        parts = [part for part in parts if len(part)]
        if not parts:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        numbers = np.concatenate([part.number for part in parts])
        ids = np.concatenate([part.objects().object_id for part in parts])
        return ids, np.where(numbers < _MOST, numbers, -1)
