"""LURM as a scikit-learn transformer: fit on a log, users in, vectors out."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from habitus.core.errors import ArtifactError, ConfigError, nearest
from habitus.data.store import Store
from habitus.tokens.interests import InterestConfig, Interests, fit_interests

FORMAT = 1


class LurmEncoder(TransformerMixin, BaseEstimator):
    """Whole lives of events as one float32 vector per user, learnt without labels.

    Parameters
    ----------
    size
        tiny, small, base or large: width of a vector 64, 256, 512, 1024.
    interests
        `cluster`, `item`, or `field` with `fields`, columns of the item table or `type` and categories of events.
    block
        day, week or month: the smallest span that counts are kept for.
    scales
        Windows that are read; None: 1x13, 4x13, 13x8 blocks, and the whole life.
    epochs
        Passes of training at most; 0 leaves the start from the leading directions of the bags.
    on_unknown
        What `transform` does with a user it has no events of: `empty` gives the model's empty vector, `error` raises.
    schema
        Which column plays which part, when `fit` gets a table or files.

    The constructor only stores. `fit` takes a `Store`, its path, or whatever `habitus.ingest` takes; what is not a
    store yet becomes one in a temporary folder that lives as long as the encoder. `X` of `transform` is a list, array
    or series of user ids. Vectors are of the end of the log and never see `y`.
    Errors: `ConfigError` for an unknown value or, with on_unknown="error", user; those of `ingest` for the log.

    >>> from habitus.data.sources.interest_worlds import Twins, draw_tastes
    >>> log = draw_tastes(Twins(n_users=40, n_interests=100)).log()
    >>> encoder = LurmEncoder(size="tiny", interests="item", epochs=0).fit(log)
    >>> encoder.transform(["u7", "nobody"]).shape
    (2, 64)
    """

    def __init__(
        self,
        size: str = "small",
        interests: str = "cluster",
        fields: Sequence[str] = (),
        block: str = "week",
        scales: str | None = None,
        epochs: int = 20,
        seed: int = 0,
        on_unknown: Literal["empty", "error"] = "empty",
        schema: Any = None,
    ) -> None:
        self.size = size
        self.interests = interests
        self.fields = fields
        self.block = block
        self.scales = scales
        self.epochs = epochs
        self.seed = seed
        self.on_unknown = on_unknown
        self.schema = schema

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit interests and encoder on everything in the log; `y` is not read."""
        from habitus.models.lurm import LurmConfig
        from habitus.tasks.lurm_fit import fit_lurm, training_config
        from habitus.tokens.stored_counts import keep_counts

        _one_of("on_unknown", self.on_unknown, ("empty", "error"))
        chosen = {"size": self.size} | ({} if self.scales is None else {"scales": self.scales})
        config = LurmConfig.parse(chosen, where="LurmEncoder")
        self._open(X)
        made = {"way": self.interests, "fields": tuple(self.fields), "block": self.block}
        self.interests_ = self._interests(InterestConfig.parse(made, where="LurmEncoder"))
        counts = keep_counts(self.store_, self.interests_)
        self.store_ = Store.open(self.store_.path)
        training = training_config(epochs=self.epochs, loggers=()) if self.epochs else None
        self.model_ = fit_lurm(counts, self.interests_, config, training, self.seed)
        self.n_features_out_ = config.d_flat
        self._read()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Give float32 [n, M P], one row per user id, in the order asked."""
        from habitus.tasks.lurm_fit import encode

        check_is_fitted(self, "model_")
        users = self._rows(X)
        flat, _ = encode(self.model_, self._counts, self.interests_, users)
        return flat

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Give `lurm0` .. `lurm{M P - 1}`."""
        check_is_fitted(self, "model_")
        return np.array([f"lurm{i}" for i in range(self.n_features_out_)], dtype=object)

    def append(self, log: Any) -> Self:
        """Add later events to the encoder's store and its counts; weights and interests stay as they are."""
        from habitus.tasks.ingest import append

        check_is_fitted(self, "model_")
        append(self.store_.path, log, schema=self.schema)
        self.store_ = Store.open(self.store_.path)
        self._read()
        return self

    def erase(self, users: Sequence[Any]) -> Any:
        """Remove users from the encoder's store and its counts, for good; gives what was not undone.

        They are unknown from then on. A store that was handed to `fit` loses them too.
        """
        from habitus.tasks.erase import erase

        check_is_fitted(self, "model_")
        done = erase(self.store_.path, [str(user) for user in users])
        self.store_ = Store.open(self.store_.path)
        self._read()
        return done

    def similar(self, users: Sequence[Any], k: int = 100, anchor: Any = None) -> pl.DataFrame:
        """Give the k users most like each: `user, like, rank, score`. See `habitus.similar`."""
        from habitus.tasks.lurm_fit import encode
        from habitus.tasks.similar import similar

        check_is_fitted(self, "model_")
        flat, vectors = encode(self.model_, self._counts, self.interests_, np.arange(self.store_.n_users))
        table = pl.DataFrame(
            {
                "user": self.store_.users["user"],
                "flat": pl.Series(flat, dtype=pl.Array(pl.Float32, flat.shape[1])),
                "vectors": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1:])),
            }
        )
        return similar(table, users=list(users), k=k, anchor=anchor)

    def describe(self, users: Sequence[Any], k: int = 5) -> pl.DataFrame:
        """Give the k weightiest interests of each anchor of each user, by name, with counts and the anchor's share."""
        from habitus.tasks.describe import describe

        check_is_fitted(self, "model_")
        table = describe(self.model_, self.interests_, self._counts, self._rows(users), k=k)
        asked = pl.DataFrame({"row": np.arange(len(users)), "user": [str(user) for user in users]})
        return table.join(asked, on="row", maintain_order="left").select("user", pl.exclude("user", "row"))

    def save(self, path: str | Path) -> Path:
        """Write weights, interests and parameters to a folder; the log stays where it is and is named, not copied."""
        from habitus.core.atomic import new_folder
        from habitus.models.artifact import save_artifact

        check_is_fitted(self, "model_")
        path = Path(path)
        with new_folder(path, replace=True) as folder:
            self.interests_.save(folder / "interests")
            spec = {"interests": self.interests_.version}
            save_artifact(
                folder / "artifact",
                [self.model_],
                name="lurm",
                spec=spec,
                fingerprint=self.interests_.version,
                heads=(),
            )
            facts = self.get_params() | {"schema": None, "fields": list(self.fields)}
            (folder / "encoder.json").write_text(json.dumps({"format": FORMAT, **facts}, indent=1) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path, log: Any, *, schema: Any = None) -> LurmEncoder:
        """Read what `save` wrote, to encode users of `log`. Errors: `ArtifactError`."""
        from habitus.models.artifact import load_artifact
        from habitus.tokens.stored_counts import keep_counts

        path = Path(path)
        try:
            facts = json.loads((path / "encoder.json").read_text("utf-8"))
            if facts.pop("format") != FORMAT:
                raise ValueError("another format")
        except (OSError, ValueError, KeyError) as cause:
            raise ArtifactError("a folder of a LurmEncoder", str(cause), where=str(path)) from None
        made = cls(**facts | {"schema": schema, "fields": tuple(facts["fields"])})
        made._open(log)
        made.interests_ = Interests.load(path / "interests")
        made.model_ = load_artifact(path / "artifact", fingerprint=made.interests_.version).members[0]
        made.n_features_out_ = made.model_.config.d_flat
        keep_counts(made.store_, made.interests_)
        made.store_ = Store.open(made.store_.path)
        made._read()
        return made

    def _open(self, log: Any) -> None:
        """Set the store: as given, or made from the log in a temporary folder."""
        if isinstance(log, Store):
            self.store_ = Store.open(log.path)
        elif isinstance(log, str | Path) and (Path(log) / "manifest.json").is_file():
            self.store_ = Store.open(log)
        else:
            from habitus.tasks.ingest import ingest

            folder = Path(tempfile.mkdtemp(prefix="habitus-lurm-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self.store_ = ingest(log, folder / "log.store", schema=self.schema)

    def _interests(self, config: InterestConfig) -> Interests:
        until = self.store_.manifest["days"]["last"]
        if config.way != "cluster":
            return fit_interests(self.store_, config, until=until, seed=self.seed)
        from habitus.tasks.interests import learn_interests

        return learn_interests(self.store_, config, until=until, seed=self.seed)

    def _read(self) -> None:
        """Map the counts as they are now, with one more user who did nothing."""
        from habitus.tokens.stored_counts import stored_counts

        counts = stored_counts(self.store_, self.interests_.version)
        life = dataclasses.replace(counts.life, user_offsets=_with_nobody(counts.life.user_offsets))
        self._counts = dataclasses.replace(counts, user_offsets=_with_nobody(counts.user_offsets), life=life)
        ids = self.store_.users["user"].cast(pl.String)
        self._places = pl.DataFrame({"user": ids}).with_row_index("at")

    def _rows(self, users: Any) -> np.ndarray:
        given = pl.Series(
            "user", users if isinstance(users, pl.Series) else np.ravel(np.asarray(users, object)).tolist()
        )
        wanted = pl.DataFrame({"user": given.cast(pl.String)})
        at = wanted.join(self._places, on="user", how="left", maintain_order="left")["at"]
        if at.null_count() and self.on_unknown == "error":
            name = wanted["user"].filter(at.is_null())[0]
            meant = nearest(str(name), self._places["user"].head(10_000).to_list())
            fix = f"did you mean {meant!r}?" if meant else "use on_unknown='empty'"
            raise ConfigError("users of the log", repr(name), where="LurmEncoder.transform", fix=fix)
        return at.fill_null(self.store_.n_users).to_numpy().astype(np.int64)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError("one of " + ", ".join(known), repr(value), where=f"LurmEncoder: {name}")


def _with_nobody(offsets: np.ndarray) -> np.ndarray:
    """Add one user without rows."""
    return np.append(offsets, offsets[-1])
