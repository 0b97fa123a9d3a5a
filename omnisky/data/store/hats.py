"""The files that make a folder of partitions a HATS collection, and describe it (Croissant).

Written by hand, since they are text and Parquet footers: the hats library takes seconds to import.
Tests read them with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from omnisky.data.store.checksums import MANIFEST, SUMS, chunk_sums, write_manifest, write_sums
from omnisky.data.store.healpix import MAX_ORDER, Cells, border_cells, margin_order
from omnisky.data.store.job import StoreSpec, write_json
from omnisky.data.store.parquet import ParquetFile, column_of
from omnisky.data.store.schema import COORDINATES, HEALPIX, Layout
from omnisky.surveys import surveys

__all__ = ["FORMAT", "finish_tree", "margin_name", "margin_partition", "partition_path"]

FORMAT = 1
PARTITIONS = "partitions.json"
# All coordinates in one file, with a row group a partition: partitions of images have thousands of
# small groups, from which they come a hundred times slower.
ALL_COORDINATES = "coordinates.parquet"
MAP_ORDER = 8
# _metadata repeats all footers; beyond this it costs readers more than it saves.
_MOST_GROUPS = 20_000


def partition_path(order: int, cell: int) -> str:
    """Return where HATS has a partition, relative to its catalogue."""
    return f"dataset/Norder={order}/Dir={cell // 10000 * 10000}/Npix={cell}.parquet"


def coordinates_path(order: int, cell: int) -> str:
    """Return where a job keeps the coordinates of a partition."""
    return f"coordinates/{order}-{cell}.parquet"


def margin_name(name: str, margin_arcsec: float) -> str:
    """Return the name of a margin catalogue."""
    return f"{name}_{margin_arcsec:g}arcs".replace(".", "_")


def margin_partition(folder: Path, name: str, number: int, margin_arcsec: float) -> dict[str, Any]:
    """Write the neighbours of one partition: identity and position of what lies just outside.

    What lies in the cells around it is listed, which is everything within the margin and some
    more. The cells are the finest that are nowhere narrower than the margin.
    """
    told = folder / PARTITIONS
    partitions = _partitions(told, told.stat().st_mtime_ns)
    order, cell = partitions[number]
    fine = margin_order(margin_arcsec, [order])
    ring = border_cells(order, cell, fine)
    shift = 2 * (MAX_ORDER - fine)
    around = Cells(partitions).meeting(ring << shift, ((ring + 1) << shift) - 1)
    tables = []
    for other in around:
        table = pq.read_table(folder / coordinates_path(*partitions[other]))
        cells = table[HEALPIX].to_numpy() >> shift
        near = ring[np.minimum(np.searchsorted(ring, cells), len(ring) - 1)] == cells
        tables.append(table.filter(pa.array(near)).replace_schema_metadata(None))
    record: dict[str, Any] = {"order": order, "cell": cell, "rows": 0}
    if sum(map(len, tables)):
        table = pa.concat_tables(tables).sort_by(HEALPIX).combine_chunks()
        file = f"{margin_name(name, margin_arcsec)}/{partition_path(order, cell)}"
        with ParquetFile(folder / "tree" / file, table.schema) as out:
            for batch in table.to_batches(max_chunksize=16384):
                out.write(dict(zip(batch.schema.names, batch.columns, strict=True)))
        record |= {"rows": len(table), "file": file, "sums": chunk_sums(folder / "tree" / file)}
    return record


@lru_cache(maxsize=2)
def _partitions(path: Path, stamp: int) -> list[tuple[int, int]]:
    return [(order, cell) for order, cell in json.loads(path.read_text())["partitions"]]


def finish_tree(
    tree: Path,
    name: str,
    *,
    layout: Layout,
    spec: StoreSpec,
    records: Sequence[Mapping[str, Any]],
    margins: Sequence[Mapping[str, Any]],
    sums: Iterable[tuple[str, list[list[Any]]]],
    provenance: Mapping[str, Any],
) -> None:
    """Write everything beside the partitions and margins: metadata, properties, checksums.

    Parameters
    ----------
    tree : Path
        Root of the collection.
    name : str
        Name of the catalogue.
    layout, spec : Layout, StoreSpec
        What the store is.
    records, margins : sequence of mapping
        Records of the partitions, along the index, and of their margins.
    sums : iterable of (str, list)
        Files of partitions and margins with their checksums.
    provenance : mapping
        Where the objects come from, as plain values.
    """
    for left in tree.rglob(".writing-*"):
        left.unlink()  # of an attempt that was killed
    margins = [m for m in margins if m["rows"]]
    catalogues = {name: list(records)}
    if margins:
        catalogues[margin_name(name, spec.margin_arcsec)] = list(margins)
    for catalogue, held in catalogues.items():
        _write_catalogue(tree, catalogue, held, name, spec, str(provenance["created"]))
    lines = {"obs_collection": name, "hats_primary_table_url": name}
    if margins:
        # Listed but not the default: LSDB wants the columns of a margin to be those that are asked
        # of the catalogue, and a margin has coordinates only.
        lines["all_margins"] = margin_name(name, spec.margin_arcsec)
    _write_properties(tree / "collection.properties", lines)
    example = tree / name / partition_path(records[0]["order"], records[0]["cell"])
    values = {
        "format": FORMAT,
        "name": name,
        "survey": layout.survey,
        "profile": spec.profile,
        "rows": sum(r["rows"] for r in records),
        "partitions": [[r["order"], r["cell"], r["rows"]] for r in records],
        "layout": layout.as_dict(),
        "columns": [asdict(c) for c in spec.columns(layout)],
        "declarations": {
            m.name: _facts(asdict(spec.declared[m.name]))
            for m in layout.modalities
            if m.name in spec.declared
        },
        "options": spec.as_dict(),
        "provenance": dict(provenance),
    }
    write_json(tree / "croissant.json", croissant(values, pq.read_schema(example)))
    _write_coordinates(tree, [(r["order"], r["cell"]) for r in records])
    write_sums(tree, chain(sums, _others(tree)))
    write_manifest(tree, values)


def _write_coordinates(tree: Path, partitions: Iterable[tuple[int, int]]) -> None:
    writer = None
    for order, cell in partitions:
        table = pq.read_table(tree.parent / coordinates_path(order, cell))
        if writer is None:
            writer = pq.ParquetWriter(
                tree / ALL_COORDINATES,
                table.schema,
                compression="zstd",
                use_dictionary=[n for n in table.column_names if n == "epoch"],
                write_page_checksum=True,
            )
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _others(tree: Path) -> Iterator[tuple[str, list[list[Any]]]]:
    """Yield the checksums of the files that are no partitions."""
    for path in sorted(tree.rglob("*")):
        own = path.name in (SUMS, MANIFEST) or path.name.startswith("Npix=")
        if path.is_file() and not own:
            yield path.relative_to(tree).as_posix(), chunk_sums(path)


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a declaration for JSON, which has no infinity: None stands for no limit."""
    low, high = values["valid_range"]
    limits = [x if np.isfinite(x) else None for x in (low, high)]
    return {**values, "valid_range": limits}


def _write_catalogue(
    tree: Path,
    catalogue: str,
    records: Sequence[Mapping[str, Any]],
    name: str,
    spec: StoreSpec,
    created: str,
) -> None:
    folder = tree / catalogue
    files = [folder / partition_path(r["order"], r["cell"]) for r in records]
    pq.write_metadata(pq.read_schema(files[0]), folder / "dataset" / "_common_metadata")
    if spec.profile == "packed":
        # Optional in HATS, and `datasets` would take it for one of the data files.
        _write_footers(folder / "dataset", files)
    lines = ["Norder,Npix", *(f"{r['order']},{r['cell']}" for r in records)]
    (folder / "partition_info.csv").write_text("\n".join(lines) + "\n")
    rows = sum(r["rows"] for r in records)
    sky = sum(4.0 ** -r["order"] for r in records) / 12
    properties: dict[str, Any] = {
        "obs_collection": catalogue,
        "dataproduct_type": "object" if catalogue == name else "margin",
        "hats_nrows": rows,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": HEALPIX,
        "hats_col_healpix_order": MAX_ORDER,
        "hats_npix_suffix": ".parquet",
        "hats_max_rows": max(r["rows"] for r in records),
        "hats_order": max(r["order"] for r in records),
        "moc_sky_fraction": f"{sky:.8f}",
        "hats_builder": "omnisky",
        "hats_creation_date": created,
        "hats_estsize": sum(f.stat().st_size for f in files) // 1024,
        "hats_release_date": "2025-08-22",
        "hats_version": "v1.0",
    }
    if catalogue == name:
        light = [f.name for f in pq.read_schema(files[0]) if f.name in COORDINATES]
        if spec.profile == "packed":
            properties["hats_cols_default"] = " ".join(light)
        properties["hats_skymap_order"] = MAP_ORDER
        _write_skymap(folder / "skymap.fits", records)
    else:
        properties |= {
            "hats_primary_table_url": name,
            "hats_margin_threshold": f"{spec.margin_arcsec:g}",
        }
    _write_properties(folder / "hats.properties", properties)


def _write_properties(path: Path, values: Mapping[str, Any]) -> None:
    lines = ["#HATS catalog", *(f"{key}={value}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_footers(dataset: Path, files: Sequence[Path]) -> None:
    """Write ``_metadata``, unless it would be large."""
    merged, groups = None, 0
    for file in files:
        footer = pq.read_metadata(file)
        groups += footer.num_row_groups
        if groups > _MOST_GROUPS:
            return
        footer.set_file_path(file.relative_to(dataset).as_posix())
        if merged is None:
            merged = footer
        else:
            merged.append_row_groups(footer)
    if merged is not None:
        merged.write_metadata_file(dataset / "_metadata")


def counts_of(healpix: np.ndarray) -> list[list[int]]:
    """Return [cell, rows] of the sky map, from order-29 indices."""
    cells = np.unique(healpix >> 2 * (MAX_ORDER - MAP_ORDER), return_counts=True)
    return np.transpose(cells).tolist()


def _write_skymap(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the number of objects a cell as a sparse HEALPix map."""
    from astropy.io import fits

    total: Counter[int] = Counter()
    for record in records:
        total.update(dict(record["map"]))
    cells = np.array(sorted(total), np.int64)
    counts = np.array([total[int(cell)] for cell in cells], np.int64)
    columns = [fits.Column("PIXEL", "K", array=cells), fits.Column("VALUE", "K", array=counts)]
    table = fits.BinTableHDU.from_columns(columns, name="SKYMAP")
    table.header.update(
        PIXTYPE="HEALPIX",
        INDXSCHM="EXPLICIT",
        ORDERING="NESTED",
        COORDSYS="C",
        NSIDE=2**MAP_ORDER,
        OBS_NPIX=len(cells),
    )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


_TERMS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty "
    "fileSet format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet "
    "references regex repeated replace samplingRate separator source subField transform"
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS.split()},
}


def croissant(values: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Return the Croissant description (JSON-LD) of a store.

    Parameters
    ----------
    values : mapping
        What the manifest says.
    schema : pyarrow.Schema
        Schema of its partitions.
    """
    name, survey = values["name"], surveys().get(values["survey"])
    files = {
        "@type": "cr:FileSet",
        "@id": "partitions",
        "name": "partitions",
        "description": "Parquet files, one a HEALPix cell, sorted by _healpix_29.",
        "encodingFormat": "application/x-parquet",
        "includes": f"{name}/dataset/**/Npix=*.parquet",
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": (
            f"{values['rows']} objects of {survey.title if survey else values['survey']} with "
            f"{', '.join(m['name'] for m in values['layout']['modalities'])}; a HATS collection "
            f"in the {values['profile']} profile, written by omnisky"
        ),
        "license": survey.licence if survey else "see the survey",
        "citeAs": "\n".join(survey.bibtex.values()) if survey else "",
        "datePublished": values["provenance"]["created"],
        "version": "1.0.0",
        "distribution": [files],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "objects",
                "name": "objects",
                "description": "One record an object.",
                "key": {"@id": "objects/object_id"},
                "field": [_field(field, values["profile"]) for field in schema],
            }
        ],
    }


def _field(field: pa.Field, profile: str) -> dict[str, Any]:
    """Return the Croissant description of a column."""
    column = column_of(field)
    unit = (field.metadata or {}).get(b"unit", b"").decode()
    kinds = {"float64": "cr:Float64", "float32": "cr:Float32", "bool": "sc:Boolean"}
    if column is None:
        text, whole = pa.types.is_string(field.type), pa.types.is_integer(field.type)
        kind = "sc:Text" if text else "sc:Integer" if whole else "cr:Float64"
        about: dict[str, Any] = {"dataType": kind}
        says = f"{field.name}, in {unit}" if unit else field.name
    else:
        shape = " × ".join(f"{d} {n}" for d, n in zip(column.dims, column.shape, strict=True))
        says = f"{column.part} of {column.modality}: {shape}, {column.dtype}"
        says += f", in {unit}" if unit else ""
        if profile == "packed":
            about = {"dataType": "sc:Text"}
            says += f"; bytes of one row, little-endian, coded as {column.codec}"
        else:
            about = {"dataType": kinds[column.dtype], "isArray": True}
            about["arrayShape"] = str(int(np.prod(column.shape)))
    return {
        "@type": "cr:Field",
        "@id": f"objects/{field.name}",
        "name": field.name,
        "description": says,
        **about,
        **({"unitText": unit} if unit else {}),
        "source": {"fileSet": {"@id": "partitions"}, "extract": {"column": field.name}},
    }
