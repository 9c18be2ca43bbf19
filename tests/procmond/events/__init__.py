"""Tests of procmond.events."""
