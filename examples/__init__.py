"""Programs that show Holdfast at work; run them with `python -m examples.<name>`."""
