"""The steps of `ingest` and `append`, in the order they run.

engine       DuckDB under a memory limit, its errors in our words
zones        local days from instants
projection   the schema as SQL: typed columns, and why a row cannot be used
scan         first pass: rows read, users found, rejects counted
rejects      what could not be used, and where it stood
codes        texts as small numbers, stable when later days come
stream       second pass: sorted rows into shards
merge        old rows and new ones of a shard
attributes   profiles and items
tables       small Parquet tables with their hash
manifest     what the store holds
swap         the new store takes the place of the old one
"""
