"""Which image tokens a class rests on: relevance by several methods, and what removing tokens in its order does."""
