"""Which assets fit this customer now? Two knowledge graphs, cut at a date, retrieved from, ranked, and cited."""
