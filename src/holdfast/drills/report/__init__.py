"""The report of a drill: what a person, a reviewer or a program should know of it, from its history and its verdicts alone."""
