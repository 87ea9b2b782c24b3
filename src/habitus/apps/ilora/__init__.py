"""Recommendation by a language model whose low-rank update is mixed anew for every user sequence (extra [llm])."""
