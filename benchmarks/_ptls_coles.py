"""Inference of ptls' CoLES encoder (a GRU over all events) at given history lengths; run by the interpreter of its own
environment, which needs torch and pytorch-lifestream: python _ptls_coles.py USERS WIDTH V EVENTS ... -> a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    import torch
    from ptls.data_load.padded_batch import PaddedBatch  # pyright: ignore
    from ptls.nn import RnnSeqEncoder, TrxEncoder  # pyright: ignore

    torch.set_num_threads(1)
    n_users, width, n_values, *histories = (int(word) for word in sys.argv[1:])
    fields = {"interest": {"in": n_values, "out": 64}}
    model = RnnSeqEncoder(TrxEncoder(embeddings=fields), hidden_size=width, type="gru").eval()
    found = {}
    for n in histories:
        lengths = torch.full((n_users,), n)
        batch = PaddedBatch({"interest": torch.randint(1, n_values, (n_users, n))}, lengths)
        spent = []
        with torch.no_grad():
            for _ in range(3):
                began = time.process_time()
                out = model(batch)
                spent.append(time.process_time() - began)
        assert tuple(out.shape) == (n_users, width)
        found[n] = min(spent) / n_users
    print(json.dumps(found))


if __name__ == "__main__":
    main()
