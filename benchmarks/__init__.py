"""Side-by-side measurements: ratios against a peer or a limit, both sides measured in one run.

    make bench                              all of them, small sizes
    make bench SIZE=full ONLY="ingest"      one of them, the sizes the docs speak of

Each file here is one benchmark, run as `python -m benchmarks.NAME --size small|full`. It prints what it compares and
records its figures with `benchmarks.record.record`. To add one, add the file.
"""
