"""Tables of a public data set as their publisher names them: Parquet or CSV files in a folder that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from habitus.core.errors import SourceError

if TYPE_CHECKING:
    import polars as pl


def read_published(
    folder: str | Path, names: tuple[str, ...], columns: Mapping[str, type[pl.DataType]]
) -> pl.DataFrame:
    """Read the first of `names` that is there as .parquet, .csv or .csv.gz; keep `columns`, cast as stated.

    Columns that are not asked for are not read. In text, an empty field and `?` count as missing.
    Errors: `SourceError` when the folder or the file is absent, or a column is missing or cannot be cast.
    """
    import polars as pl

    path = _find(Path(folder), names)
    if path.suffix == ".parquet":
        scan = pl.scan_parquet(path)
    else:
        scan = pl.scan_csv(path, infer_schema=False, null_values=["", "?", "NA"])
    try:
        given = scan.collect_schema()
        missing = [name for name in columns if name not in given]
        if missing:
            found = f"columns: {', '.join(given)}"
            raise SourceError(f"a column {missing[0]!r}", found, where=str(path), fix="take the publisher's own file")
        return scan.select(_cast(pl.col(name), given[name], kind) for name, kind in columns.items()).collect()
    except pl.exceptions.PolarsError as cause:
        raise SourceError("readable columns", str(cause).splitlines()[0], where=str(path)) from None


def _cast(column: pl.Expr, given: pl.DataType, kind: type[pl.DataType]) -> pl.Expr:
    import polars as pl

    if given == pl.String and kind == pl.Boolean:
        return column.str.to_lowercase().is_in(["1", "true", "y", "yes"])
    if given == pl.String and kind == pl.Date:
        return column.str.slice(0, 10).str.to_date("%Y-%m-%d")
    if given == pl.String and kind == pl.Datetime:
        return column.str.to_datetime(time_unit="us")
    return column.cast(kind)


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    if not folder.is_dir():
        raise SourceError("a folder with the publisher's files", "no such folder", where=str(folder))
    files = [folder / f"{name}{ending}" for name in names for ending in (".parquet", ".csv", ".csv.gz")]
    for path in files:
        if path.is_file():
            return path
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
    wanted = " or ".join(f"{name}.parquet / .csv" for name in names)
    raise SourceError(f"a file {wanted}", there, where=str(folder), fix="download the whole set, or mend --folder")
