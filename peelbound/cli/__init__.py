"""The command line. `main` is light; each command's module is imported when the command runs."""
