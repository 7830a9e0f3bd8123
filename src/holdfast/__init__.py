"""Saves that hold."""
