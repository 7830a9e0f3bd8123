"""The drills: their histories, checkers and figures, and the planted bugs that each checker must see."""
