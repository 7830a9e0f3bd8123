"""Holdfast's tests, by kind."""
