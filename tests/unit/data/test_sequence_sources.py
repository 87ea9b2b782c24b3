"""Item sequences, RecBole's atomic files and MovieLens-100K, on files made here and on published ones if at hand."""

from pathlib import Path

import polars as pl
import pytest

from habitus.core.errors import SourceError
from habitus.core.registry import SOURCES, resolve
from habitus.data.ingest import ingest
from habitus.data.sources.item_sequences import item_sequences
from habitus.data.sources.movielens import movielens_1m, movielens_100k
from habitus.data.sources.recbole import recbole

REAL = Path(__file__).parents[4] / "shared" / "data" / "amazon_beauty" / "sequences.parquet"


def sequences_of(log, tmp_path: Path) -> dict[str, list[str]]:
    """Ingest, and read the items of every user back in the order of the store."""
    store = ingest(log, tmp_path / "log.store")
    items = store.items
    names = store.users["user"].to_list()
    found = {}
    for number in range(store.n_shards):
        shard = store.shard(number)
        for u in range(len(shard.offsets) - 1):
            rows = slice(shard.offsets[u], shard.offsets[u + 1])
            found[str(names[shard.first_user + u])] = [str(items[i]) for i in shard.item[rows]]
    return found


def test_lines_of_text_keep_their_order(tmp_path: Path):
    file = tmp_path / "beauty.txt"
    file.write_text("7 b a b\n\n3 c\n", "utf-8")
    assert sequences_of(item_sequences(file), tmp_path) == {"7": ["b", "a", "b"], "3": ["c"]}
    assert item_sequences(tmp_path / "beauty.txt").schema.name == "beauty"


@pytest.mark.parametrize("suffix", ["", "_id"])
def test_parquet_is_ordered_by_position(tmp_path: Path, suffix: str):
    table = pl.DataFrame({f"user{suffix}": [1, 1, 2], "position": [1, 0, 0], f"item{suffix}": [10, 20, 10]})
    (tmp_path / "in").mkdir()
    table.write_parquet(tmp_path / "in" / "s.parquet")
    assert sequences_of(item_sequences(tmp_path / "in"), tmp_path) == {"1": ["20", "10"], "2": ["10"]}


def test_bad_item_sequences_say_where(tmp_path: Path):
    (tmp_path / "a.txt").write_text("1 2\n9\n", "utf-8")
    with pytest.raises(SourceError, match="line 2"):
        item_sequences(tmp_path)
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="2 such files"):
        item_sequences(tmp_path)
    with pytest.raises(SourceError, match="position"):
        item_sequences(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_text("no", "utf-8")
    with pytest.raises(SourceError, match="Parquet"):
        item_sequences(tmp_path / "c.parquet")


def atomic(folder: Path, inter: str) -> Path:
    (folder / "toy.inter").write_text(inter, "utf-8")
    (folder / "toy.user").write_text("user_id:token\tage:float\tjob:token\nu1\t33\tcook\nu2\t\tclerk\n", "utf-8")
    text = (
        'item_id:token\ttitle:token_seq\ttype:token\tvector:float_seq\ni1\tA "fine" day\tbook\t1 2\ni2\tB\tfilm\t3 4\n'
    )
    (folder / "toy.item").write_text(text, "utf-8")
    return folder


def test_atomic_files_become_events_profile_and_items(tmp_path: Path):
    (tmp_path / "in").mkdir()
    rows = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tplace:token\n"
    rows += "u1\ti2\t4\t978300760.5\thome\nu2\ti1\t3\t978300000\twork\nu1\ti1\t2\t978300000\thome\n"
    log = recbole(atomic(tmp_path / "in", rows))
    assert sequences_of(log, tmp_path) == {"u1": ["i1", "i2"], "u2": ["i1"]}
    assert set(log.schema.events.amounts) == {"rating"}
    assert set(log.schema.events.categories) == {"place"}
    assert log.events["time_us"].to_list() == [978300760500000, 978300000000000, 978300000000000]
    assert {name: part.kind for name, part in log.schema.profile.columns.items()} == {
        "age": "number",
        "job": "category",
    }
    assert {n: p.kind for n, p in log.schema.items.columns.items()} == {"title": "text", "type_": "category"}
    assert log.items["title"][0] == 'A "fine" day'


def test_without_times_the_file_s_order_stands(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.inter").write_text("user_id:token\titem_id:token\nu\tb\nu\ta\n", "utf-8")
    assert sequences_of(recbole(tmp_path / "in"), tmp_path) == {"u": ["b", "a"]}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("user_id:token\titem_id:text\nu\ti\n", "item_id"),
        ("user_id:token\tthing:token\nu\ti\n", "item_id:token"),
        ("user_id:token\titem_id:token\trating:float\nu\ti\tmany\n", "numbers"),
        ("user_id\titem_id:token\nu\ti\n", "name:kind"),
    ],
)
def test_bad_atomic_files_say_what_is_wrong(tmp_path: Path, text: str, match: str):
    (tmp_path / "x.inter").write_text(text, "utf-8")
    with pytest.raises(SourceError, match=match):
        recbole(tmp_path)


def test_two_atomic_sets_in_one_folder_are_refused(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.inter").write_text("user_id:token\titem_id:token\n", "utf-8")
    with pytest.raises(SourceError, match="2 of them"):
        recbole(tmp_path)


def test_movielens_100k(tmp_path: Path):
    flags = ["0"] * 19
    flags[5] = flags[8] = "1"
    (tmp_path / "u.data").write_text("1\t7\t5\t874965758\n1\t8\t3\t874965758\n2\t7\t1\t880000000\n", "utf-8")
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n", "utf-8")
    films = [f"7|Caf\xe9 (1995)|01-Jan-1995||http://x|{'|'.join(flags)}", f"8|No date|||{'|'.join(['', *flags])}"]
    (tmp_path / "u.item").write_bytes("\n".join(films).encode("latin-1") + b"\n")
    log = movielens_100k(tmp_path)
    assert sequences_of(log, tmp_path) == {"1": ["7", "8"], "2": ["7"]}
    assert log.items.rows() == [("7", "Café (1995)", 1995.0, "Comedy|Drama"), ("8", "No date", None, "Comedy|Drama")]
    assert log.profiles.rows()[1] == ("2", 53.0, "F", "other", "94043")
    (tmp_path / "u.user").write_text("1|24|M\n", "utf-8")
    with pytest.raises(SourceError, match="5 columns"):
        movielens_100k(tmp_path)


def test_movielens_1m(tmp_path: Path):
    (tmp_path / "ratings.dat").write_text("1::7::5::978300760\n1::8::3::978302109\n2::7::1::978298413\n", "utf-8")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072-1234\n", "utf-8")
    films = "7::Caf\xe9: The Film (1995)::Comedy|Children's\n8::No date::Drama\n"
    (tmp_path / "movies.dat").write_bytes(films.encode("latin-1"))
    log = movielens_1m(tmp_path)
    assert sequences_of(log, tmp_path) == {"1": ["7", "8"], "2": ["7"]}
    assert log.items.rows() == [
        ("7", "Café: The Film (1995)", 1995.0, "Comedy|Children's"),
        ("8", "No date", None, "Drama"),
    ]
    assert log.profiles.select("user", "age", "gender", "zip").rows()[1] == ("2", 56.0, "M", "70072-1234")
    (tmp_path / "users.dat").write_text("1::F::1\n", "utf-8")
    with pytest.raises(SourceError, match="5 columns"):
        movielens_1m(tmp_path)


def test_the_sources_are_registered():
    names = ("item_sequences", "recbole", "movielens_100k", "movielens_1m")
    sources = [item_sequences, recbole, movielens_100k, movielens_1m]
    assert [resolve(SOURCES, name, kind="source") for name in names] == sources


@pytest.mark.skipif(not REAL.is_file(), reason="the Amazon Beauty sequences are not at hand")
def test_beauty_has_its_published_counts():
    events = item_sequences(REAL).events
    assert (events["user"].n_unique(), events["item"].n_unique(), len(events)) == (22_363, 12_101, 198_502)
