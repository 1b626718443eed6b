"""Where a file came from, and where a document went: MLflow's records joined by the hashes of what the steps wrote."""
