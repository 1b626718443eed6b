"""What happens to a pipeline when something breaks: seeded faults, a restart, and a look at what there is then."""
