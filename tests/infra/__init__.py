"""What stands below infra/: checked by schemas, linters and rules of our own, and run where no container is needed."""
