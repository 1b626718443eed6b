"""Files of others, fetched once: from package registries by their own clients, from http(s) and s3, into a cache by hash."""
