"""Compiled inner loops of matching and verification; plain arrays in, plain arrays out."""
