"""Holdfast's speed beside what people use today; each module is one command and prints one table."""
