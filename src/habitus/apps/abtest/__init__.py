"""Experiments: who gets what, how many are needed, and what came out.

One declaration (TOML) becomes a plan (JSON); the plan assigns users, and judges what was measured: `analyse` once, at
the end, or `monitor` day by day with intervals that stay valid however often one looks.
"""
