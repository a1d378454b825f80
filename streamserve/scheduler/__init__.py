"""StreamScheduler: admission, decisions, retries, results."""
