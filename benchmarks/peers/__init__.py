"""The other trainers of the race, each set up as well as we know how; every one is a command in a process group of its own."""
