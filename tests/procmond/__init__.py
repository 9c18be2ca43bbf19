"""Tests of procmond."""
