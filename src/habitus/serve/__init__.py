"""The service: the answers of the command line over HTTP, and the studio page (extra [serve]).

config.py     what the operator chooses        models.py     loaded runs, looked up per user, and their swap
batching.py   requests answered together       answers.py    one batch of questions -> plain values
schemas.py    what may be asked and is told    routes.py     the addresses
safety.py     keys and limits                  telemetry.py  metrics and the request log
app.py        all of it put together           client.py     a small client
studio.py     data and files of the page       studio/       the page itself
"""
