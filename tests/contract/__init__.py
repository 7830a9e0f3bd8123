"""One suite that every implementation passes."""
