"""Instance-wise LoRA: exactness beside PEFT, a world only mixing can solve, the prefix cache, a study as figures."""

from __future__ import annotations

import argparse
import copy
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.record import record
from habitus.apps.ilora.gate import Gate, GateConfig, gate_use
from habitus.apps.ilora.mix import PROJECTIONS, MixConfig, add_mixed_lora, mixing
from habitus.data.ingest import ingest
from habitus.data.store import Store

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
N_GENRES, PER_GENRE, WIDTH = 2, 4, 32


def exactness() -> None:
    """Set the uniform gate beside PEFT's LoRA: the largest difference of outputs and gradients, over five families."""
    import transformers
    from peft import LoraConfig, get_peft_model

    worst = {"outputs": 0.0, "gradients": 0.0}
    families = ("Llama", "Qwen2", "Qwen3", "Gemma", "Gemma2")
    for family in families:
        size = {"vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        size |= {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
        size |= {} if family == "Qwen2" else {"head_dim": 32}
        torch.manual_seed(0)
        base = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**size)).eval()
        ours = add_mixed_lora(copy.deepcopy(base), MixConfig(r=8, alpha=32.0))
        plain = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules=list(PROJECTIONS))
        theirs = get_peft_model(copy.deepcopy(base), plain)
        named = dict(theirs.named_parameters())
        adapted = [(name, p) for name, p in ours.named_parameters() if "lora_" in name]
        with torch.no_grad():
            for name, p in adapted:
                p.normal_(0, 0.1)
                named[name].copy_(p)
        ids = torch.randint(1, 200, (4, 24))
        with mixing(ours, torch.full((4, 4), 0.25)):
            one = ours(input_ids=ids, labels=ids)
            one.loss.backward()
        other = theirs(input_ids=ids, labels=ids)
        other.loss.backward()
        worst["outputs"] = max(worst["outputs"], float((one.logits - other.logits).abs().max().detach()))
        gaps = [float((p.grad - named[name].grad).abs().max()) for name, p in adapted]
        worst["gradients"] = max(worst["gradients"], *gaps)
    for name, value in worst.items():
        note = f"largest absolute difference, {', '.join(families)}, random weights, r 8, alpha 32"
        record("ilora", f"uniform gate against PEFT LoRA: {name}", value, note=note)


RATES = {"linear": 10.0, "uniform": 1.0, "random": 1.0, "resnet": 1.0}


def rules(seeds: int, steps: int, names: list[str]) -> None:
    """Half the users take the candidate of the last item's genre, half the other; only their state says who is who."""
    for name in names:
        rate = RATES[name]
        found = [_rules(GateConfig(name=name, seed=seed), rate, seed, steps) for seed in range(seeds)]  # pyright: ignore
        right = [one["right"] for one in found]
        spread = (
            f"{', '.join(f'{r:.3f}' for r in right)}; gate rate {rate:g} x, {steps} steps, spread of weights between "
        )
        note = spread + f"users {np.mean([one['spread'] for one in found]):.3f}"
        record("ilora", f"world of two rules, {name} gate: share right", float(np.mean(right)), note=note)


def _rules(config: GateConfig, rate: float, seed: int, steps: int) -> dict[str, float]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    n = N_GENRES * PER_GENRE
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    size = LlamaConfig(vocab_size=n + 2, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, **heads)
    base = LlamaForCausalLM(size)
    _fit(base, None, None, [{"params": base.parameters(), "lr": 3e-3}], steps, seed, is_random=True)
    base.requires_grad_(False)
    model = add_mixed_lora(base, MixConfig(r=8), seed=seed)
    gate = Gate(config, d=16, n_experts=4)
    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": 3e-3}]
    if list(gate.parameters()):
        groups.append({"params": list(gate.parameters()), "lr": 3e-3 * rate})
    _fit(model, gate, model, groups, steps, seed, is_random=False)
    ids, goal, state, key = _questions(2000, 10_000 + seed, is_random=False)
    with torch.no_grad():
        weights = gate(state, key)
        with mixing(model, weights):
            logits = model(input_ids=ids, logits_to_keep=1).logits[:, -1]
        chosen = logits.gather(1, ids[:, 1:3]).argmax(dim=1)
        right = (ids[:, 1:3].gather(1, chosen[:, None])[:, 0] == goal).float().mean()
    return {"right": float(right), "spread": float(np.mean(gate_use(weights.numpy())["spread"]))}


def _fit(model, gate, mixed, groups, steps: int, seed: int, *, is_random: bool) -> None:
    stepper = torch.optim.AdamW(groups, weight_decay=0.0)
    for step in range(steps):
        ids, goal, state, key = _questions(64, seed * 100_000 + step, is_random=is_random)
        if mixed is None:
            loss = F.cross_entropy(model(input_ids=ids, logits_to_keep=1).logits[:, -1], goal)
            loss.backward()
        else:
            with mixing(mixed, gate(state, key)):
                loss = F.cross_entropy(model(input_ids=ids, logits_to_keep=1).logits[:, -1], goal)
                loss.backward()
        stepper.step()
        stepper.zero_grad(set_to_none=True)


def _questions(n: int, seed: int, *, is_random: bool):
    """Last item, two candidates of both genres in random order, a cue; the answer by the user's rule, or at random."""
    draw = np.random.default_rng(seed)
    last = draw.integers(0, N_GENRES * PER_GENRE, n)
    genre, inside = last // PER_GENRE, draw.integers(0, PER_GENRE, (2, n))
    same, other = genre * PER_GENRE + inside[0], (1 - genre) * PER_GENRE + inside[1]
    side = draw.random(n) < 0.5
    rule = draw.random(n) < 0.5
    goal = np.where(draw.random(n) < 0.5 if is_random else rule, same, other)
    ids = np.stack(
        [last, np.where(side, same, other), np.where(side, other, same), np.full(n, N_GENRES * PER_GENRE)], 1
    )
    state = draw.normal(size=(n, 16))
    state[:, 0] = np.where(rule, 1.0, -1.0) + 0.3 * state[:, 0]
    key = draw.integers(0, 1 << 62, n).astype(np.uint64)
    return torch.from_numpy(ids), torch.from_numpy(goal), torch.from_numpy(state).float(), key


def cache(adapter: Path, data: Path, lm: Path, states: Path, n: int) -> None:
    """Score the candidates of some users with the prefix cache and without: seconds and memory."""
    from habitus.apps.ilora.one import open_adapter

    bench = open_adapter(adapter, data, lm, states)
    candidates = bench.data.candidates().take(np.arange(n))
    bench.ask(candidates.take(np.arange(4)), writes=False)  # the first call builds what later ones reuse
    seconds, memory = {}, {}
    for name, is_cached in (("with", True), ("without", False)):
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        found = bench.ask(candidates, writes=False, is_cached=is_cached)
        seconds[name] = (time.perf_counter() - began) * 1000 / n
        memory[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        risen = f"the peak rose by {memory[name] - before / 1024:.0f} MiB"
        note = f"{n} users measured, 20 candidates, 32 prompts at once, {risen}"
        record("ilora", f"likelihood {name} prefix cache, 1,000 users", seconds[name], "s", note)
        record("ilora", f"likelihood {name} prefix cache, peak memory of the process", memory[name], "MiB", note)
        print(f"  mean log likelihood {found.log_p.mean():.6f}")
    ratio = seconds["without"] / seconds["with"]
    record("ilora", "likelihood: time without prefix cache over time with it", ratio, note=f"{n} users, back to back")


def of_study(run: Path) -> None:
    """Record the figures of a study."""
    for file in sorted(run.glob("metrics-*.json")):
        found = json.loads(file.read_text("utf-8"))
        for name, own in found["figures"].items():
            card = found["cards"].get(name, {})
            seeds = f"{card.get('n_seeds', 1)} seeds, {found['n']:,} users, {found['kind']} candidates"
            for key in (
                "likelihood HR@1",
                "NDCG@5",
                "MRR",
                "valid ratio",
                "written correct/total",
                "written correct/valid",
            ):
                if key in own:
                    span = f"[{own[key]['low']:.4f}, {own[key]['high']:.4f}]; " if "low" in own[key] else ""
                    sd = card.get("seed_sd", {}).get(key)
                    note = span + seeds + (f", sd over seeds {sd:.4f}" if sd is not None else "")
                    record("ilora", f"{found['name']} {found['part']}, {name}: {key}", own[key]["value"], note=note)
        for name, own in found["differences"].items():
            figure = own["likelihood HR@1"]
            note = f"[{figure['low']:+.4f}, {figure['high']:+.4f}], paired over users"
            record(
                "ilora", f"{found['name']} {found['part']}, {name} - LoRA: likelihood HR@1", figure["value"], note=note
            )


def stores(out: Path) -> None:
    """Ingest MovieLens-100K and LastFM from their Parquet forms, where they are at hand: OUT/NAME.store."""

    from benchmarks._lurm_tasks import movies_log
    from habitus.data.sources.lastfm_titles import lastfm_titles

    if not DATA.is_dir():
        print("left out: no data folder beside the project")
        return
    logs = {"ml_100k": movies_log()}
    logs["lastfm"] = lastfm_titles(DATA / "lastfm_titles")
    for name, log in logs.items():
        path = out / f"{name}.store"
        store = Store.open(path) if path.is_dir() else ingest(log, path)
        print(f"{path}: {store.n_users:,} users, {store.n_events:,} events")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--stores", type=Path, help="Make the stores of both logs in this folder, and stop.")
    parser.add_argument("--study", type=Path, action="append", default=[], help="A study, judged: record its figures.")
    parser.add_argument("--cache", type=Path, help="An adapter: time it with and without the prefix cache.")
    parser.add_argument("--gate", choices=list(RATES), action="append", default=[], help="World of two rules alone.")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--states", type=Path)
    parser.add_argument("--users", type=int, default=64)
    asked = parser.parse_args()
    if asked.stores:
        stores(asked.stores)
    for run in asked.study:
        of_study(run)
    if asked.cache:
        cache(asked.cache, asked.data, asked.lm, asked.states, asked.users)
    seeds = 1 if asked.size == "small" else 3
    if asked.gate:
        rules(seeds, 400, asked.gate)
    elif not (asked.stores or asked.study or asked.cache):
        exactness()
        rules(seeds, 400, list(RATES))


if __name__ == "__main__":
    main()
