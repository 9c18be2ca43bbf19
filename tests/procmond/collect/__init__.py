"""Tests of procmond.collect."""
