"""The comparison: the same base, rows, candidates and steps for every arm; only the adapter's gate differs.

RUN/recipe.json                 what was chosen, and fingerprints of all that was read
RUN/ARM-SEED/                   one adapter per arm and seed; the base model untuned has none
RUN/answers/KIND-ARM-SEED.npz   what it said to every row
RUN/metrics.json                what `tables` made of it
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from habitus.apps.ilora.answer import Answers, answer
from habitus.apps.ilora.candidates import Candidates, Kind
from habitus.apps.ilora.mix import MixConfig
from habitus.apps.ilora.model import GateConfig, IloraConfig, InstanceLora, open_causal, prompts_of
from habitus.apps.ilora.prepare import Prepared
from habitus.apps.ilora.prompts import PromptConfig
from habitus.apps.ilora.rows import Part, Rows
from habitus.apps.ilora.small_lm import SmallLMConfig
from habitus.apps.ilora.states import ItemStates
from habitus.apps.ilora.train import IloraTraining, train_ilora
from habitus.core.atomic import new_file, write_json
from habitus.core.config import Config, read_toml
from habitus.core.errors import ConfigError, nearest
from habitus.core.seeds import generator

ZERO_SHOT = "zero-shot"


class Arm(Config):
    """One arm: its gate and tuner, and what it changes of the study's training."""

    gate: GateConfig = Field(default_factory=lambda: GateConfig.parse({}))
    mix: MixConfig = Field(default_factory=lambda: MixConfig.parse({}))
    is_hybrid: bool = True
    training: dict[str, Any] = Field(default_factory=dict)


class IloraRecipe(Config):
    """A study: prompts, the model made on the spot (`lm`), training, arms, seeds, and kinds of candidates.

    `against` names the arm that differences are taken to. `slot_scale`: how long item vectors in slots start, beside
    token vectors.

    >>> IloraRecipe.parse({"name": "x", "arms": {"LoRA": {"gate": {"name": "uniform"}}}}).against
    'LoRA'
    """

    name: str
    app: str = "ilora"
    prompts: PromptConfig = Field(default_factory=lambda: PromptConfig.parse({}))
    lm: SmallLMConfig = Field(default_factory=lambda: SmallLMConfig.parse({}))
    training: IloraTraining = Field(default_factory=lambda: IloraTraining.parse({}))
    arms: dict[str, Arm]
    seeds: tuple[int, ...] = (0,)
    kinds: tuple[Kind, ...] = ("uniform",)
    against: str = "LoRA"
    slot_scale: float = Field(1.0, ge=0)

    def training_of(self, arm: str, seed: int) -> IloraTraining:
        """Give the training of an arm. Errors: `ConfigError` for an unknown key in it."""
        changed = self.training.model_dump() | self.arms[arm].training | {"seed": seed}
        return IloraTraining.parse(changed, where=f"arms.{arm}.training")

    def adapter_of(self, arm: str, seed: int) -> IloraConfig:
        """Give the adapter of an arm and seed: the seed draws factors, projector and gate."""
        chosen = self.arms[arm]
        gate = chosen.gate.model_copy(update={"seed": seed})
        given = {"is_hybrid": chosen.is_hybrid, "slot_scale": self.slot_scale, "seed": seed}
        return IloraConfig(mix=chosen.mix, gate=gate, **given)


def read_ilora_recipe(path: str | Path) -> IloraRecipe:
    """Read a recipe and check every arm in it. Errors: `ConfigError`."""
    recipe = IloraRecipe.parse(read_toml(path), where=str(path))
    for arm in recipe.arms:
        recipe.training_of(arm, 0)
        recipe.arms[arm].mix.check()
    if recipe.against not in recipe.arms:
        raise ConfigError(f"one of: {', '.join(recipe.arms)}", repr(recipe.against), where=f"{path}: against")
    return recipe


class Bench:
    """What all arms of a seed share: the model, the prompts, the states, the rows.

    Parameters
    ----------
    data, lm, states
        A prepared folder, a folder with a causal LM, a run of SASRec (or GRU4Rec) on DATA/sequences.store.

    Errors: those of opening each; `FingerprintError` when an adapter belongs to other parts.
    """

    def __init__(
        self, data: str | Path, lm: str | Path, states: str | Path, prompts: PromptConfig, *, member: int = 0
    ) -> None:
        self.data = Prepared.open(data)
        causal, tokenizer, base = open_causal(lm)
        self.source = ItemStates.open(states, self.data.sequences.items, member=member)
        texts = prompts_of(causal, tokenizer, self.data.sequences.titles, prompts)
        marks = {"base": base, "states": self.source.fingerprint, "prompts": texts.fingerprint}
        marks["sequences"] = self.data.sequences.fingerprint
        self.model = InstanceLora(causal, texts, self.source.vectors(), self.source.is_known, marks)

    def train(
        self,
        name: str,
        config: IloraConfig,
        training: IloraTraining,
        *,
        folder: str | Path | None = None,
        say: Callable[[str], Any] = print,
    ) -> dict[str, Any]:
        """Add an adapter and train it on the train rows; give what was seen."""
        rows = self.data.sequences.rows("train")
        some = rows.take(np.sort(generator(training.seed, "standard").permutation(len(rows))[:2000]))
        self.model.add(name, config, self.source.states(some))
        return train_ilora(self.model, rows, self.source, training, folder=folder, say=say)

    def ask(self, candidates: Candidates, *, rows: Rows | None = None, **options: Any) -> Answers:
        """Ask the active adapter about candidates; options are those of `answer`."""
        rows = candidates.rows(self.data.sequences) if rows is None else rows
        return answer(self.model, candidates, rows.history(), self.source.states(rows), rows.keys, **options)


def run_study(
    recipe: IloraRecipe,
    data: str | Path,
    lm: str | Path,
    states: str | Path,
    out: str | Path,
    *,
    part: Part = "test",
    only: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    say: Callable[[str], Any] = print,
) -> Path:
    """Train and ask what is not there yet of every arm and seed; a killed call goes on with the next one."""
    out = Path(out)
    unknown = set(only) - {*recipe.arms, ZERO_SHOT}
    if unknown:
        raise ConfigError(f"arms out of: {', '.join((ZERO_SHOT, *recipe.arms))}", ", ".join(unknown), where="only")
    arms = only or (ZERO_SHOT, *recipe.arms)
    for place, seed in enumerate(recipe.seeds):
        missing = [arm for arm in arms if not _is_done(recipe, out, arm, seed, part)]
        if (seeds and seed not in seeds) or not missing:
            continue
        for arm in missing:
            if arm == ZERO_SHOT and place:
                continue  # the base knows no seed
            bench = Bench(data, lm, states, recipe.prompts, member=place)
            _one(recipe, bench, out, arm, seed, part, say)
    return out


def _one(
    recipe: IloraRecipe, bench: Bench, out: Path, arm: str, seed: int, part: Part, say: Callable[[str], Any]
) -> None:
    folder, is_base = out / f"{arm}-{seed}", arm == ZERO_SHOT
    facts = {"sequences": bench.data.sequences.fingerprint, "candidates": bench.data.facts["candidates"]}
    _same_study(recipe, bench, out)
    if not is_base:
        if (folder / "ilora.json").is_file():
            bench.model.load(folder)
        else:
            work = out / "checkpoints" / f"{arm}-{seed}"
            config, training = recipe.adapter_of(arm, seed), recipe.training_of(arm, seed)
            seen = bench.train("default", config, training, folder=work, say=say)
            member = _member(recipe, seed)
            bench.model.save(folder, facts={"arm": arm, "seed": seed, "member": member, **seen, **facts})
            shutil.rmtree(work, ignore_errors=True)
    for kind in recipe.kinds:
        began, candidates = time.perf_counter(), bench.data.candidates(part, kind)
        found = bench.ask(candidates, is_base=is_base)
        save_answers(_answers(out, arm, seed, part, kind), found, candidates, time.perf_counter() - began)
        right = (found.log_p.argmax(axis=1) == candidates.slot).mean()
        say(f"{arm}, seed {seed}, {kind}: HR@1 {right:.3f} by likelihood, {time.perf_counter() - began:.0f} s")


def _same_study(recipe: IloraRecipe, bench: Bench, out: Path) -> None:
    """Note what a study is made of, or refuse to go on with other parts. Errors: `ConfigError`."""
    marks = {key: value for key, value in bench.model.fingerprints.items() if key != "states"}  # one per seed
    own = {"recipe": recipe.model_dump(mode="json"), "fingerprints": marks}
    own["candidates"] = bench.data.facts["candidates"]
    file = out / "recipe.json"
    if not file.is_file():
        write_json(file, own)
        return
    theirs = json.loads(file.read_text("utf-8"))
    if other := [key for key in own if theirs.get(key) != own[key]]:
        fix = "choose another --out, or remove the folder"
        raise ConfigError(
            "the study this folder began with", f"another {' and '.join(other)}", where=str(file), fix=fix
        )


def _is_done(recipe: IloraRecipe, out: Path, arm: str, seed: int, part: Part) -> bool:
    return all(_answers(out, arm, seed, part, kind).is_file() for kind in recipe.kinds)


def _answers(out: Path, arm: str, seed: int, part: Part, kind: Kind) -> Path:
    return out / "answers" / f"{part}-{kind}-{arm}-{seed}.npz"


def save_answers(path: Path, found: Answers, candidates: Candidates, seconds: float) -> None:
    """Write answers with the hash of the candidates they answer; no pickle."""
    plain = np.array(json.dumps({"candidates": candidates.hash, "seconds": seconds}))
    with new_file(path) as beside, beside.open("wb") as handle:
        np.savez_compressed(
            handle,
            plain=plain,
            log_p=found.log_p,
            n_tokens=found.n_tokens,
            weights=found.weights,
            text=np.array(found.text, dtype=np.str_),
        )


def load_answers(path: Path, candidates: Candidates) -> tuple[Answers, float]:
    """Read answers and the seconds they took. Errors: `FingerprintError` when they answer other candidates."""
    with np.load(path, allow_pickle=False) as found:
        plain = json.loads(str(found["plain"]))
        candidates.check(plain["candidates"], where=str(path))
        made = Answers(found["log_p"], found["n_tokens"], found["text"].tolist(), found["weights"])
    return made, float(plain["seconds"])


def train_arm(
    recipe: str | Path,
    data: str | Path,
    lm: str | Path,
    states: str | Path,
    out: str | Path,
    *,
    arm: str,
    seed: int = 0,
    say: Callable[[str], Any] = print,
) -> Path:
    """Train one arm of a recipe and write its adapter. Errors: `ConfigError` for an arm that the recipe has not."""
    chosen = read_ilora_recipe(recipe)
    if arm not in chosen.arms:
        meant = nearest(arm, chosen.arms)
        fix = f"did you mean {meant!r}?" if meant else ""
        raise ConfigError(f"an arm out of: {', '.join(chosen.arms)}", repr(arm), where=str(recipe), fix=fix)
    bench = Bench(data, lm, states, chosen.prompts, member=_member(chosen, seed))
    work = Path(out).with_name(Path(out).name + ".checkpoints")
    seen = bench.train("default", chosen.adapter_of(arm, seed), chosen.training_of(arm, seed), folder=work, say=say)
    facts = {"arm": arm, "seed": seed, "member": _member(chosen, seed), **seen}
    facts["candidates"] = bench.data.facts["candidates"]
    bench.model.save(out, facts=facts)
    shutil.rmtree(work, ignore_errors=True)
    return Path(out)


def _member(recipe: IloraRecipe, seed: int) -> int:
    """The member of the model of items that goes with a seed: their places are the same."""
    return recipe.seeds.index(seed) if seed in recipe.seeds else 0
